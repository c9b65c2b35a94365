"""Files of Gaussians as viewers and editors of splats have them: .ply, binary, little endian.

A vertex is a Gaussian: x, y, z; nx, ny, nz, which are zero; f_dc_0 to 2, the first harmonic of red, green and blue;
f_rest_*, the others, all of red first; opacity as its logit; scale_0 to 2 as natural logarithms; rot_0 to 3, the
quaternion w, x, y, z (the official code of Kerbl et al., SIGGRAPH 2023). All are 32-bit floats.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO, List, Tuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.spherical_harmonics import MAX_DEGREE, num_harmonics
from gnerf_ns.utils.errors import InputError

OPACITY_MARGIN = 1e-6
"""Opacities are written as at least this far from 0 and 1, whose logits are infinite."""
MIN_SCALE = 1e-12
"""Standard deviations are written as at least this, in scene units: the logarithm of 0 is infinite."""
NUMBER_TYPES = {
    **dict.fromkeys(("char", "int8"), "<i1"),
    **dict.fromkeys(("uchar", "uint8"), "<u1"),
    **dict.fromkeys(("short", "int16"), "<i2"),
    **dict.fromkeys(("ushort", "uint16"), "<u2"),
    **dict.fromkeys(("int", "int32"), "<i4"),
    **dict.fromkeys(("uint", "uint32"), "<u4"),
    **dict.fromkeys(("float", "float32"), "<f4"),
    **dict.fromkeys(("double", "float64"), "<f8"),
}
"""The types of a file's numbers, as numpy has them."""
LONGEST_HEADER = 2**16
"""In bytes. A file whose header is longer is not a splat's."""

MEANS, NORMALS, FIRST = ("x", "y", "z"), ("nx", "ny", "nz"), ("f_dc_0", "f_dc_1", "f_dc_2")
SCALES, QUATERNION = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")


def write_ply(path: Path, gaussians: Gaussians) -> None:
    """Write a file that is there whole or not at all.

    Args:
        path: of the file; it is replaced if there is one.
        gaussians: without a batch. Harmonics above degree 3 are left out, as nothing reads them; where there are
            fewer, zeros stand for the others, as some viewers take no other number.
    """
    count, k = len(gaussians), num_harmonics(MAX_DEGREE)
    harmonics = F.pad(gaussians.harmonics[..., :k], (0, k - min(k, gaussians.harmonics.shape[-1])))
    columns = (
        gaussians.means,
        torch.zeros_like(gaussians.means),
        harmonics[..., 0],
        harmonics[..., 1:].flatten(1),
        gaussians.opacities.logit(eps=OPACITY_MARGIN)[:, None],
        gaussians.scales.clamp_min(MIN_SCALE).log(),
        F.normalize(gaussians.quaternions, dim=-1),
    )
    names = (*MEANS, *NORMALS, *FIRST, *_rest(3 * (k - 1)), "opacity", *SCALES, *QUATERNION)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {count}",
        *(f"property float {name}" for name in names),
        "end_header",
    ]
    written = path.with_name(f"{path.name}.new")
    with written.open("wb") as file:
        file.write("".join(f"{line}\n" for line in header).encode("ascii"))
        file.write(torch.cat(columns, dim=-1).detach().cpu().numpy().astype("<f4").tobytes())
    written.replace(path)


def read_ply(path: Path) -> Gaussians:
    """What `write_ply` or other software has written, with as many harmonics as the file has.

    Raises:
        InputError: it is not such a file.
    """
    try:
        with path.open("rb") as file:
            vertices = _vertices(file)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"{path} cannot be read as a splat: {error}.") from error
    names = vertices.dtype.names or ()
    others = [name for name in names if name.startswith("f_rest_")]
    degree = math.isqrt(len(others) // 3 + 1) - 1
    missing = [name for name in (*MEANS, *FIRST, "opacity", *SCALES, *QUATERNION) if name not in names]
    if missing or set(others) != set(_rest(3 * (num_harmonics(degree) - 1))):
        raise InputError(
            f"{path} is no splat: its vertices lack {', '.join(missing) or 'some of the properties f_rest_*'}; "
            "give the .ply file of 3D Gaussians, not of points or a mesh."
        )

    def columns(chosen: Tuple[str, ...]) -> Float[Tensor, "n columns"]:
        stacked = [vertices[name].astype(np.float32) for name in chosen]
        return torch.from_numpy(np.stack(stacked, axis=1) if stacked else np.empty((len(vertices), 0), np.float32))

    rest = columns(_rest(len(others))).unflatten(1, (3, -1)) if others else torch.empty(len(vertices), 3, 0)
    return Gaussians(
        columns(MEANS),
        columns(SCALES).exp(),
        F.normalize(columns(QUATERNION), dim=-1),
        columns(("opacity",))[:, 0].sigmoid(),
        torch.cat([columns(FIRST)[..., None], rest], dim=-1),
    )


def _rest(count: int) -> Tuple[str, ...]:
    """Names of all harmonics but the first ones."""
    return tuple(f"f_rest_{number}" for number in range(count))


def _vertices(file: BinaryIO) -> np.ndarray:
    """The structured array of a file's vertices.

    Raises:
        ValueError: it has no such; the message is a clause.
    """
    header: List[List[str]] = []
    if file.readline(8).strip() != b"ply":
        raise ValueError("it does not begin with the word ply")
    while not header or header[-1] != ["end_header"]:
        line = file.readline(LONGEST_HEADER)
        if not line.endswith(b"\n") or file.tell() > LONGEST_HEADER:
            raise ValueError("its header does not end")
        words = line.decode("ascii", errors="replace").split()
        if words and words[0] not in ("comment", "obj_info"):
            header.append(words)
    if header[0] != ["format", "binary_little_endian", "1.0"]:
        raise ValueError("it is not of the format binary_little_endian 1.0")
    if header[1][:2] != ["element", "vertex"] or not header[1][-1].isdigit():
        raise ValueError("vertices are not its first element")
    fields = []
    for words in header[2:-1]:
        if words[0] == "element":
            break
        if len(words) != 3 or words[0] != "property" or words[1] not in NUMBER_TYPES:
            raise ValueError(f"its header says '{' '.join(words)}' of its vertices")
        fields.append((words[2], NUMBER_TYPES[words[1]]))
    dtype, count = np.dtype(fields), int(header[1][-1])
    content = file.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise ValueError(f"it ends before the last of its {count} vertices")
    return np.frombuffer(content, dtype=dtype, count=count)
