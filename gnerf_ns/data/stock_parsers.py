"""nerfstudio's own dataparsers: their poses are set aside, and what they raise becomes one sentence."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional, Tuple

from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from gnerf_ns.data.dataparser import (
    GROUND_TRUTH_KEY,
    LENS_ORIGIN_KEY,
    LENS_SOURCE_KEY,
    placeholder_camera_to_worlds,
    unit_scene_box,
)
from gnerf_ns.data.orientation import ORIENTATIONS_KEY, upright_outputs
from gnerf_ns.utils.errors import InputError

PARSER_ERRORS = (
    OSError,
    AssertionError,
    LookupError,  # an entry is missing
    ValueError,  # broken JSON or text, or no number
    TypeError,
    AttributeError,
    RuntimeError,
    struct.error,  # a cut off COLMAP file
)
"""What the stock parsers raise on files that are missing, broken or incomplete."""


@contextmanager
def one_sentence_for(parser: str, data: Path) -> Iterator[None]:
    """Turn the errors of a stock parser within the block into an `InputError`.

    Args:
        parser: its name.
        data: what it reads.

    Raises:
        InputError: for any of `PARSER_ERRORS`; one raised within goes on unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except PARSER_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or "without a reason"
        raise InputError(
            f"{data} cannot be read by the dataparser {parser} ({type(error).__name__}: {reason}); correct its files, "
            "or choose another dataparser."
        ) from error


def set_poses_aside(outputs: DataparserOutputs) -> Tuple[DataparserOutputs, Optional[Float[Tensor, "n 3 4"]]]:
    """Outputs that know nothing of the true poses, and those poses.

    A stock parser's poses are its cameras'; it also has a scene box, a transform and perhaps points or depths in the
    frame of those poses. Ours says in its metadata whether it knows any.
    """
    outputs = upright_outputs(outputs)
    cameras = outputs.cameras
    if GROUND_TRUTH_KEY in outputs.metadata:
        ground_truth = outputs.metadata[GROUND_TRUTH_KEY]
    else:
        ground_truth = cameras.camera_to_worlds.clone() if len(outputs.image_filenames) else None
    blank = cameras[...]
    blank.camera_to_worlds = placeholder_camera_to_worlds(len(outputs.image_filenames))
    return (
        DataparserOutputs(
            image_filenames=outputs.image_filenames,
            cameras=blank,
            alpha_color=outputs.alpha_color,
            scene_box=unit_scene_box(),
            mask_filenames=outputs.mask_filenames,
            metadata={
                ORIENTATIONS_KEY: outputs.metadata[ORIENTATIONS_KEY],
                LENS_SOURCE_KEY: outputs.metadata.get(LENS_SOURCE_KEY),
                LENS_ORIGIN_KEY: outputs.metadata.get(LENS_ORIGIN_KEY, "the data"),
            },
        ),
        ground_truth,
    )
