"""Image quality: PSNR, SSIM, and LPIPS where its weights can be had."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional
from unittest.mock import patch
from urllib.error import URLError

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor


class ImageMetrics:
    """Metrics of one image, built when first used.

    Not an `nn.Module`: LPIPS's backbone belongs neither into checkpoints nor into start-up, and downloads its weights.
    """

    def __init__(self) -> None:
        self._lpips: Optional[torch.nn.Module] = None
        self._lpips_unavailable = False

    @torch.no_grad()
    def __call__(
        self, rendered: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"]
    ) -> Dict[str, float]:
        """Metrics of a rendering against an image, both in [0, 1]; PSNR in dB."""
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        rendered_batch, truth_batch = (image.permute(2, 0, 1)[None] for image in (rendered, truth))
        metrics = {
            "psnr": float(peak_signal_noise_ratio(rendered_batch, truth_batch, data_range=1.0)),
            "ssim": float(structural_similarity_index_measure(rendered_batch, truth_batch, data_range=1.0)),  # type: ignore
        }
        lpips = self._load_lpips()
        if lpips is not None:
            metrics["lpips"] = float(lpips.to(rendered.device)(rendered_batch, truth_batch))
        return metrics

    def _load_lpips(self) -> Optional[torch.nn.Module]:
        if self._lpips is None and not self._lpips_unavailable:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            try:
                self._lpips = LearnedPerceptualImagePatchSimilarity(normalize=True)
            except (URLError, OSError):
                self._lpips_unavailable = True
                CONSOLE.print("LPIPS is left out: its AlexNet weights are neither on disk nor to be downloaded.")
        return self._lpips


class _NoLPIPS(torch.nn.Module):
    """In place of a metric that nobody asks for here."""

    def __init__(self, **options: Any) -> None:
        super().__init__()

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.full((), float("nan"))


@contextmanager
def without_lpips() -> Iterator[None]:
    """Models built meanwhile do not fetch the weights of AlexNet, 230 MB, to measure LPIPS with; theirs is NaN."""
    with patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", _NoLPIPS):
        yield
