"""A scene as a set of 3D Gaussians that have an opacity and a color for each direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import roma
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.cameras.alignment import Similarity
from gnerf_ns.splats.spherical_harmonics import turned_harmonics


@dataclass(frozen=True)
class Gaussians:
    """Gaussians of one scene, or of as many as the batch has."""

    means: Float[Tensor, "*batch n 3"]
    """Where they are, in scene units."""
    scales: Float[Tensor, "*batch n 3"]
    """Standard deviations along their own axes, in scene units."""
    quaternions: Float[Tensor, "*batch n 4"]
    """Of the rotations from their axes to the scene's: w, x, y, z, of length 1."""
    opacities: Float[Tensor, "*batch n"]
    """Of their middles, 0 to 1."""
    harmonics: Float[Tensor, "*batch n 3 k"]
    """Spherical harmonics of red, green and blue, k = (degree + 1)**2 of each."""

    def __len__(self) -> int:
        """Number of scenes, or of Gaussians where there is no batch."""
        return len(self.means)

    def __getitem__(self, index: Any) -> Gaussians:
        """Some of the scenes, or of the Gaussians where there is no batch."""
        return Gaussians(*(value[index] for value in vars(self).values()))

    def roots(self) -> Float[Tensor, "*batch n 3 3"]:
        """R S, whose columns are the axes, each as long as the standard deviation along it.

        Quaternions are brought to length 1 first: rounding, and the steps of an optimizer, take them from there.
        """
        unit = F.normalize(self.quaternions, dim=-1)
        return roma.unitquat_to_rotmat(roma.quat_wxyz_to_xyzw(unit)) * self.scales[..., None, :]

    def covariances(self) -> Float[Tensor, "*batch n 3 3"]:
        """R S S^T R^T, in scene units squared (Kerbl et al., 2023, eq. 6)."""
        roots = self.roots()
        return roots @ roots.mT

    def moved(self, similarity: Similarity) -> Gaussians:
        """The same scene in another frame. Harmonics of degrees above 3, which nothing renders, are left out."""
        rotation, translation = similarity.rotation.to(self.means), similarity.translation.to(self.means)
        turn = roma.rotmat_to_unitquat(rotation)
        own = roma.quat_wxyz_to_xyzw(self.quaternions)
        return Gaussians(
            similarity.scale * (self.means @ rotation.mT) + translation,
            similarity.scale * self.scales,
            roma.quat_xyzw_to_wxyz(roma.quat_product(turn.expand_as(own), own)),
            self.opacities,
            turned_harmonics(self.harmonics, rotation),
        )
