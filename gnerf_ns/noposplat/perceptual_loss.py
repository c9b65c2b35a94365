"""How unlike two images look: LPIPS if the weights that it needs are on disk, and SSIM where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.utils.console import remark


class PerceptualLoss:
    """LPIPS (Zhang et al., CVPR 2018) with VGG's features, as in NoPoSplat; or 1 - SSIM (Wang et al., 2004).

    Not an `nn.Module`, so that VGG is not part of checkpoints. Nothing is downloaded for it.
    """

    def __init__(self) -> None:
        self._vgg: Optional[Any] = None
        if vgg_file().is_file():
            from torchmetrics.image import lpip

            self._vgg = lpip.LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=True).net
            remark("The loss is the mean squared error and LPIPS (VGG), as in NoPoSplat.")
        else:
            remark(
                "The loss is the mean squared error and 1 - SSIM in place of LPIPS, because VGG's weights are not on "
                "disk. To train as NoPoSplat does, download them once (530 MB): "
                "python -c 'from torchvision.models import vgg16; vgg16(weights=\"DEFAULT\")'"
            )

    def __call__(
        self, rendered: Float[Tensor, "n 3 height width"], truth: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, ""]:
        """The mean over images.

        Args:
            rendered: colors from 0 to 1; may exceed 1.
            truth: colors from 0 to 1.
        """
        if self._vgg is not None:
            return self._vgg.to(rendered.device)(rendered, truth, normalize=True).mean()
        from torchmetrics.functional.image import structural_similarity_index_measure

        with torch.autocast(rendered.device.type, enabled=False):  # variances are differences of mean squares
            similarity = structural_similarity_index_measure(rendered, truth, data_range=1.0)
        assert isinstance(similarity, Tensor)
        return 1.0 - similarity


def vgg_file() -> Path:
    """Where torchvision keeps the weights of VGG16, once they are downloaded."""
    from torchvision.models import VGG16_Weights

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(VGG16_Weights.DEFAULT.url).name
