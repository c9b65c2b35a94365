"""What `gnerf-localize` writes: a transforms.json, a comparison of each image with its rendering, a plot of cameras."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gnerf_ns.cameras.plots import plot_localized, save_image
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.data.transforms_writer import write_transforms_json
from gnerf_ns.localize.new_images import NewImages
from gnerf_ns.localize.scene import TrainedScene
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.refinement import Localization


def write_report(
    output: Path, folder: Path, scene: TrainedScene, images: NewImages, found: List[Localization]
) -> List[str]:
    """Write everything.

    Args:
        output: the transforms.json.
        folder: where comparisons and the plot go.
        scene: what was localized in.
        images: what was localized.
        found: the result for each image, in their order.

    Returns:
        Lines to print about it.
    """
    frames = images.with_cameras(
        scene.world.to_data(torch.stack([each.camera_to_world for each in found])),
        torch.tensor([each.focal_scale for each in found]),
        [{**confidence(each), "localization": {"lens_source": images.lens_source, **figures(each)}} for each in found],
    )
    write_transforms_json(output, {"localized": frames})
    names = [path.name for path in images.image_filenames]
    for indices, image_set in images.groups:
        for row, index in enumerate(indices.tolist()):
            image = comparison(scene.renderer, image_set, row, found[index])
            # Numbered, since images of different folders may share a name.
            save_image(folder / f"{index:04d}_{Path(names[index]).stem}.png", image)
    converged = torch.tensor([each.converged for each in found])
    title = f"{int(converged.sum())} of {len(found)} images localized"
    plot = plot_localized(
        scene.camera_to_worlds,
        torch.stack([each.camera_to_world for each in found]),
        converged,
        [each.path for each in found],
        title,
    )
    save_image(folder / "cameras.png", plot)
    doubtful = [name for name, each in zip(names, found, strict=True) if each.is_flagged]
    seconds, num_rays = (float(np.mean([getattr(each, name) for each in found])) for name in ("seconds", "num_rays"))
    lines = [f"{title}; {seconds:.1f} s and {num_rays:.0f} rays an image."]
    if doubtful:
        lines.append(f"Poses not to be relied on: {', '.join(doubtful)}")
    if images.skipped:
        lines.append(f"Images that could not be used: {', '.join(path.name for path in images.skipped)}")
    return [*lines, f"  {output}", f"  {folder}"]


def confidence(localization: Localization) -> Dict[str, Any]:
    """How far the pose can be trusted, as a run's own transforms.json says it; what is not known is null."""
    values = {
        name: getattr(localization, name)
        for name in ("rotation_sigma_deg", "translation_sigma_relative", "alternative_probability")
    }
    known = {name: round(value, 5) if math.isfinite(value) else None for name, value in values.items()}
    return {**known, "flagged": localization.is_flagged}


def figures(localization: Localization) -> Dict[str, Any]:
    """What the transforms.json says of an image besides its camera."""
    return {
        "converged": localization.converged,
        "photometric_error": localization.error,
        "explained_variance": localization.explained_variance,
        "num_hypotheses": localization.num_hypotheses,
        "num_agreeing": localization.num_agreeing,
        "exposure_gain": localization.exposure_gain,
        "focal_scale": localization.focal_scale,
        "num_rays": localization.num_rays,
        "seconds": round(localization.seconds, 2),
    }


@torch.no_grad()
def comparison(
    renderer: ImageRenderer, image_set: ImageSet, index: int, localization: Localization
) -> UInt8[np.ndarray, "height width 3"]:
    """The rendering at the pose found, the image, and their absolute difference, side by side."""
    height, width = image_set.images.height, image_set.images.width
    one = torch.tensor([index], device=renderer.device)
    image = image_set.resized(height, width, renderer.background_or_black, one)[0].permute(1, 2, 0)
    shown = renderer.render_images(
        localization.camera_to_world[None],
        image_set.directions,
        one,
        height,
        width,
        torch.tensor([localization.focal_scale], device=renderer.device),
    )[0].permute(1, 2, 0)
    rendering = (localization.exposure_gain * shown).clamp(0.0, 1.0)
    beside: Float[Tensor, "height width 3"] = torch.cat([rendering, image, (rendering - image).abs()], dim=1)
    return (255.0 * beside).round().byte().cpu().numpy()
