"""Image quality: PSNR, SSIM, and LPIPS if the weights that it needs are on disk."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Optional
from unittest.mock import patch

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

LPIPS_IS_LEFT_OUT = (
    "LPIPS is left out, because AlexNet's weights are not on disk. To measure it, download them once (230 MB):\n"
    "  python -c 'from torchvision.models import alexnet; alexnet(weights=\"DEFAULT\")'"
)


class ImageMetrics:
    """Metrics of single images, built at first use.

    Not an `nn.Module`, so that LPIPS's network is not part of checkpoints. Nothing is downloaded for it.
    """

    def __init__(self) -> None:
        self._lpips: Optional[torch.nn.Module] = None
        self._has_said_why_not = False

    @torch.no_grad()
    def __call__(
        self, rendered: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"]
    ) -> Dict[str, float]:
        """Metrics of a rendering against an image, both in [0, 1].

        Returns:
            psnr (in dB), ssim, and lpips if its weights are on disk.
        """
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
        from torchmetrics.image import lpip

        if self._lpips is None and lpip.LearnedPerceptualImagePatchSimilarity is not _NoLPIPS:
            if alexnet_file().is_file():
                self._lpips = lpip.LearnedPerceptualImagePatchSimilarity(normalize=True)
            elif not self._has_said_why_not:
                self._has_said_why_not = True
                CONSOLE.print(LPIPS_IS_LEFT_OUT, markup=False, highlight=False, soft_wrap=True)
        return self._lpips


def alexnet_file() -> Path:
    """Where torchvision keeps the weights of AlexNet, the backbone of LPIPS, once they are downloaded."""
    from torchvision.models import AlexNet_Weights

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name


class _NoLPIPS(torch.nn.Module):
    """Takes the place of the metric where nobody asks for it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.full((), float("nan"))


@contextmanager
def without_lpips() -> Iterator[None]:
    """Measure no LPIPS in this block, and say nothing about it.

    Models of nerfstudio that are built in the block do not download AlexNet; their LPIPS is NaN for good.
    """
    with patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", _NoLPIPS):
        yield
