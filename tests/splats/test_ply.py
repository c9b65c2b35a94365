"""Files of splats, read back by plyfile and by ourselves."""

import math
from dataclasses import replace
from pathlib import Path
from typing import List

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.ply import read_ply, write_ply
from gnerf_ns.utils.errors import InputError


def some(count: int = 5, num_harmonics: int = 16) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    return Gaussians(
        torch.randn(count, 3, generator=generator),
        torch.rand(count, 3, generator=generator) + 0.01,
        torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        0.05 + 0.9 * torch.rand(count, generator=generator),
        torch.randn(count, 3, num_harmonics, generator=generator),
    )


@pytest.mark.parametrize("num_harmonics", [1, 4, 9, 16, 25])
def test_an_independent_reader_finds_what_viewers_expect(tmp_path: Path, num_harmonics: int) -> None:
    gaussians = some(num_harmonics=num_harmonics)
    write_ply(tmp_path / "splat.ply", gaussians)
    assert [path.name for path in tmp_path.iterdir()] == ["splat.ply"]
    file = PlyData.read(tmp_path / "splat.ply")
    assert not file.text and file.byte_order == "<"
    vertices = file["vertex"].data
    rest = [f"f_rest_{number}" for number in range(45)]
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert list(vertices.dtype.names) == names
    assert all(vertices.dtype[name] == np.dtype("<f4") for name in names)

    def column(name: str) -> torch.Tensor:
        return torch.from_numpy(vertices[name].astype(np.float32))

    def columns(chosen: List[str]) -> torch.Tensor:
        return torch.stack([column(name) for name in chosen], dim=-1)

    torch.testing.assert_close(columns(["x", "y", "z"]), gaussians.means)
    torch.testing.assert_close(1 / (1 + torch.exp(-column("opacity"))), gaussians.opacities)
    torch.testing.assert_close(torch.exp(columns(["scale_0", "scale_1", "scale_2"])), gaussians.scales)
    torch.testing.assert_close(columns(["rot_0", "rot_1", "rot_2", "rot_3"]), gaussians.quaternions)
    for color in range(3):
        torch.testing.assert_close(column(f"f_dc_{color}"), gaussians.harmonics[:, color, 0])
        for number in range(1, 16):
            found = column(f"f_rest_{15 * color + number - 1}")
            stored = number < num_harmonics
            torch.testing.assert_close(found, gaussians.harmonics[:, color, number] if stored else torch.zeros(5))


@pytest.mark.parametrize("count", [0, 1, 300])
def test_round_trip(tmp_path: Path, count: int) -> None:
    gaussians = some(count)
    write_ply(tmp_path / "splat.ply", gaussians)
    for value, expected in zip(vars(read_ply(tmp_path / "splat.ply")).values(), vars(gaussians).values(), strict=True):
        torch.testing.assert_close(value, expected)


def test_zeros_and_ones_stay_finite(tmp_path: Path) -> None:
    opacities, scales = torch.tensor([0.0, 1.0]), torch.zeros(2, 3)
    write_ply(tmp_path / "splat.ply", replace(some(2), opacities=opacities, scales=scales))
    vertices = PlyData.read(tmp_path / "splat.ply")["vertex"].data
    assert all(np.isfinite(vertices[name]).all() for name in vertices.dtype.names)
    back = read_ply(tmp_path / "splat.ply")
    torch.testing.assert_close(back.opacities, opacities, rtol=0, atol=2e-6)
    torch.testing.assert_close(back.scales, scales, rtol=0, atol=2e-12)


def test_double_precision_and_gradients_are_no_hindrance(tmp_path: Path) -> None:
    gaussians = Gaussians(*(value.double().requires_grad_() for value in vars(some()).values()))
    write_ply(tmp_path / "splat.ply", gaussians)
    torch.testing.assert_close(read_ply(tmp_path / "splat.ply").means, some().means)


def test_files_of_other_software(tmp_path: Path) -> None:
    """Another order, other types, quaternions of any length, no normals, fewer harmonics, comments, more elements."""
    names = ["rot_0", "rot_1", "rot_2", "rot_3", "opacity", "scale_0", "scale_1", "scale_2"]
    names += [f"f_rest_{number}" for number in reversed(range(9))] + ["f_dc_0", "f_dc_1", "f_dc_2", "x", "y", "z"]
    vertices = np.zeros(2, dtype=[("red", "u1"), *((name, "f8") for name in names)])
    for number, name in enumerate(names):
        vertices[name] = [number, 0.5]
    faces = np.zeros(1, dtype=[("vertex_indices", "i4", (3,))])
    elements = [PlyElement.describe(vertices, "vertex"), PlyElement.describe(faces, "face")]
    PlyData(elements, byte_order="<", comments=["of a test"], obj_info=["none"]).write(tmp_path / "other.ply")
    gaussians = read_ply(tmp_path / "other.ply")
    torch.testing.assert_close(gaussians.means[0], torch.tensor([20.0, 21.0, 22.0]))
    torch.testing.assert_close(gaussians.quaternions[0], torch.tensor([0.0, 1.0, 2.0, 3.0]) / math.sqrt(14))
    torch.testing.assert_close(gaussians.opacities[1], torch.tensor(1 / (1 + math.exp(-0.5))))
    torch.testing.assert_close(gaussians.scales[1], torch.full((3,), math.exp(0.5)))
    expected = torch.tensor([[17.0, 16.0, 15.0, 14.0], [18.0, 13.0, 12.0, 11.0], [19.0, 10.0, 9.0, 8.0]])
    torch.testing.assert_close(gaussians.harmonics[0], expected)


HEADER = "ply\nformat binary_little_endian 1.0\nelement vertex 2\nproperty float x\n"


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "does not begin with the word ply"),
        (b"\x89PNG\r\n\x1a\n", "does not begin with the word ply"),
        (b"ply\nformat ascii 1.0\nend_header\n", "binary_little_endian"),
        (b"ply\nformat binary_little_endian 1.0\nend_header\n", "first element"),
        (b"ply\nformat binary_little_endian 1.0\n" + b"comment x\n" * 10_000, "header does not end"),
        (HEADER.encode(), "header does not end"),
        (HEADER.encode() + b"property list uchar int i\nend_header\n", "property list uchar int i"),
        (HEADER.encode() + b"end_header\n" + bytes(7), "ends before the last of its 2 vertices"),
        (HEADER.encode() + b"end_header\n" + bytes(8), "lack y, z, f_dc_0"),
    ],
)
def test_what_is_no_splat_is_refused_in_a_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "what.ply"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        read_ply(path)
    assert str(path) in str(error.value)


def test_wrong_numbers_of_harmonics_are_refused(tmp_path: Path) -> None:
    write_ply(tmp_path / "splat.ply", some())
    content = (tmp_path / "splat.ply").read_bytes().replace(b"f_rest_44\n", b"f_rest_45\n")
    (tmp_path / "splat.ply").write_bytes(content)
    with pytest.raises(InputError, match="f_rest"):
        read_ply(tmp_path / "splat.ply")


def test_missing_files_are_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.ply cannot be read: No such file"):
        read_ply(tmp_path / "none.ply")
