"""A report of a made-up run: noise, the worst case for JPEG, seen by cameras on a ring."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.report.contents import (
    CloudPoints,
    Headline,
    PoseFigures,
    ReportContents,
    ReportedImage,
    ShownCommand,
    ShownCurve,
)
from gnerf_ns.report.page import PHOTO_SIDE, RENDERING_SIDE

HOSTILE_NAME = '<script>document.title = "taken over"</script>.png'
"""A file may be called so."""


def noise(side: int, seed: int) -> Any:
    """A square picture of it."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def made_images(count: int, photo_side: int = PHOTO_SIDE, rendering_side: int = RENDERING_SIDE) -> list[ReportedImage]:
    """The first three are flagged, and the first of them is hostile; every fifth is held out."""
    angles = 2.0 * math.pi * torch.arange(count) / count
    poses = look_at(torch.stack([4.0 * angles.cos(), 4.0 * angles.sin(), torch.full((count,), 1.5)], dim=-1))
    return [
        ReportedImage(
            name=HOSTILE_NAME if index == 0 else f"image {index}.png",
            camera_to_world=poses[index],
            photo=noise(photo_side, index),
            rendering=noise(rendering_side, 1000 + index),
            alternative=noise(rendering_side, 2000 + index) if index < 3 else None,
            is_held_out=index % 5 == 4,
            figures=PoseFigures(
                rotation_sigma_deg=3.0 / (1 + index),
                translation_sigma_relative=0.05 / (1 + index),
                alternative_probability=0.9 / (1 + index) ** 2,
                explained=0.97,
                pose_from="matches",
                is_flagged=index < 3,
            ),
        )
        for index in range(count)
    ]


def made_contents(count: int, **options: Any) -> ReportContents:
    """All that there can be; options go to `made_images`."""
    directions = torch.nn.functional.normalize(torch.randn(6000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    steps = list(range(0, 3000, 10))
    return ReportContents(
        title=f"a run of {HOSTILE_NAME}",
        images=made_images(count, **options),
        headline=Headline("doubtful", f"3 images are to be looked at: {HOSTILE_NAME}."),
        remarks=["The field explains 97 % of what a typical image shows."],
        not_known=["how sure the poses are, </script> for example."],
        facts=["12 images to train on, 3 held out, from a folder.", "Lens: intrinsics from transforms.json."],
        points=CloudPoints(directions, ((directions + 1.0) * 127.0).to(torch.uint8)),
        curves=[
            ShownCurve("Loss", steps, [math.exp(-step / 1000.0) + 0.01 for step in steps], is_logarithmic=True),
            ShownCurve("PSNR in dB", steps, [30.0 - 20.0 * math.exp(-step / 500.0) for step in steps]),
        ],
        commands=[ShownCommand("Look at it:", "ns-viewer --load-config 'a & b/config.yml'")],
    )
