"""How much longer focal lengths are than was assumed, learned together with the poses."""

from typing import Literal, Optional

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

FocalMode = Literal["fixed", "shared", "per_image"]


class FocalFactors(nn.Module):
    """Factors on the assumed focal lengths, as the parameter ``logarithms``: one for all images, or one for each."""

    def __init__(self, num_images: int, mode: FocalMode) -> None:
        """Starts with the focal lengths as they were assumed.

        Args:
            num_images: number of images.
            mode: fixed: they stay; shared: one factor is learned; per_image: one for each image.
        """
        super().__init__()
        self.num_images = num_images
        self.mode: FocalMode = mode
        self.logarithms: Tensor
        logarithms = torch.zeros(num_images if mode == "per_image" else 1)
        if mode == "fixed":
            self.register_buffer("logarithms", logarithms)
        else:
            self.logarithms = nn.Parameter(logarithms)

    @property
    def is_learned(self) -> bool:
        """Whether they may change."""
        return self.mode != "fixed"

    @torch.no_grad()
    def forget(self) -> None:
        """Back to what was assumed."""
        self.logarithms.zero_()

    def forward(self, indices: Optional[Int[Tensor, "batch"]] = None) -> Float[Tensor, "images"]:
        """Factors of the images at ``indices``, or of all of them in order."""
        if self.mode == "per_image":
            return (self.logarithms if indices is None else self.logarithms[indices]).exp()
        return self.logarithms.exp().expand(self.num_images if indices is None else len(indices))

    @property
    def typical(self) -> Float[Tensor, ""]:
        """The factor for images that have none of their own: the median, without gradient."""
        return self.logarithms.detach().median().exp()

    def for_others(self, indices: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """`typical` for each of some other images of the same lens."""
        return self.typical.expand(len(indices))
