"""What `gnerf-localize` leaves behind: a transforms.json, a picture of each photograph, and one of all cameras."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gnerf_ns.data.transforms_json import write_transforms_json
from gnerf_ns.data.unposed_dataset import lengthen_focal
from gnerf_ns.localization.new_photographs import NewPhotographs
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.refinement_rounds import Localization
from gnerf_ns.localization.trained_field import TrainedField
from gnerf_ns.localization.trained_scene import TrainedScene
from gnerf_ns.plots import plot_localized, save_picture


def write_report(
    output: Path, folder: Path, scene: TrainedScene, pictures: NewPhotographs, found: List[Localization]
) -> List[str]:
    """Write everything; returns what to say about it.

    Args:
        output: the transforms.json.
        folder: where pictures go.
        scene: what was localised in.
        pictures: what was localised.
        found: what came of each, in their order.
    """
    dataset = pictures.dataset
    poses = scene.world.to_data(torch.stack([each.camera_to_world for each in found]))
    factors = torch.tensor([each.focal_factor for each in found])
    write_transforms_json(
        output,
        lengthen_focal(dataset.file_cameras, factors),
        poses,
        dataset.image_filenames,
        dataset.mask_filenames,
        dataset.applies_orientation,
        [{"localization": figures(each)} for each in found],
    )
    names = [path.name for path in dataset.image_filenames]
    for indices, photographs in pictures.groups:
        for row, index in enumerate(indices.tolist()):
            picture = comparison(scene.field, photographs, row, found[index])
            # Numbered, since pictures of different folders may share a name.
            save_picture(folder / f"{index:04d}_{Path(names[index]).stem}.png", picture)
    converged = torch.tensor([each.converged for each in found])
    title = f"{int(converged.sum())} of {len(found)} pictures localised"
    cameras = plot_localized(
        scene.camera_to_worlds,
        torch.stack([each.camera_to_world for each in found]),
        converged,
        [each.path for each in found],
        title,
    )
    save_picture(folder / "cameras.png", cameras)
    doubtful = [name for name, each in zip(names, found, strict=True) if not each.converged]
    seconds, num_rays = (float(np.mean([getattr(each, name) for each in found])) for name in ("seconds", "num_rays"))
    lines = [f"{title}; {seconds:.1f} s and {num_rays:.0f} rays a picture."]
    if doubtful:
        lines.append(f"Not to be believed: {', '.join(doubtful)}")
    return [*lines, f"  {output}", f"  {folder}"]


def figures(localization: Localization) -> Dict[str, Any]:
    """What the transforms.json says about a picture besides its camera."""
    return {
        "converged": localization.converged,
        "photometric_error": localization.error,
        "explained_share": localization.explained_share,
        "num_hypotheses": localization.num_hypotheses,
        "num_agreeing": localization.num_agreeing,
        "exposure_gain": localization.exposure_gain,
        "focal_factor": localization.focal_factor,
        "num_rays": localization.num_rays,
        "seconds": round(localization.seconds, 2),
    }


@torch.no_grad()
def comparison(
    field: TrainedField, photographs: Photographs, index: int, localization: Localization
) -> UInt8[np.ndarray, "height width 3"]:
    """The rendering at the pose found, the photograph, and their absolute difference, side by side."""
    height, width = photographs.images.height, photographs.images.width
    one = torch.tensor([index], device=field.device)
    photograph = photographs.resized(height, width, field.background_or_black, one)[0].permute(1, 2, 0)
    shown = field.pictures(
        localization.camera_to_world[None],
        photographs.directions,
        one,
        height,
        width,
        torch.tensor([localization.focal_factor], device=field.device),
    )[0].permute(1, 2, 0)
    rendering = (localization.exposure_gain * shown).clamp(0.0, 1.0)
    beside: Float[Tensor, "height width 3"] = torch.cat([rendering, photograph, (rendering - photograph).abs()], dim=1)
    return (255.0 * beside).round().byte().cpu().numpy()
