"""The ray caster against geometry that can be worked out by hand."""

import math

import numpy as np
import torch
import trimesh

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.demo.ray_casting import AMBIENT, SKY, SUN, PaintedPart, RayCaster, plain

GRAY = np.array([0.5, 0.5, 0.5])
FOV = math.radians(40.0)


def pose(*position: float) -> np.ndarray:
    return look_at(torch.tensor([position], dtype=torch.float64))[0].numpy()


def sphere(radius: float, *center: float, color: np.ndarray = GRAY) -> PaintedPart:
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    mesh.apply_translation(center)
    return PaintedPart(mesh, plain(color), np.array(center))


def test_sphere_covers_the_disc_that_geometry_says():
    alpha = RayCaster([sphere(0.5, 0.0, 0.0, 0.0)], np.array([0.0, 0.0, 1.0])).render(pose(2.0, 0.0, 0.0), FOV, 64, 4)[
        ..., 3
    ]
    radius_px = 32.0 * math.tan(math.asin(0.5 / 2.0)) / math.tan(FOV / 2.0)
    assert abs(alpha.sum() / 255.0 / (math.pi * radius_px**2) - 1.0) < 0.01


def test_pixels_are_where_nerfstudios_cameras_put_them():
    from nerfstudio.cameras.cameras import Cameras

    point = np.array([0.3, -0.2, 0.4])
    camera_to_world = pose(1.5, 1.2, 0.9)
    image = RayCaster([sphere(0.02, *point)], np.array([0.0, 0.0, 1.0])).render(camera_to_world, FOV, 64, 4)
    rows, columns = np.mgrid[:64, :64]
    weights = image[..., 3] / image[..., 3].sum(dtype=float)
    # Coordinates count from the image's corner, so that a pixel's center is at one half.
    row, column = (rows * weights).sum() + 0.5, (columns * weights).sum() + 0.5
    focal = 32.0 / math.tan(FOV / 2.0)
    cameras = Cameras(torch.from_numpy(camera_to_world).float()[None], focal, focal, 32.0, 32.0, 64, 64)
    ray = cameras.generate_rays(0, coords=torch.tensor([[row, column]], dtype=torch.float32))
    towards = point - camera_to_world[:, 3]
    cosine = float(ray.directions[0].double().numpy() @ towards / np.linalg.norm(towards))
    assert math.degrees(math.acos(min(1.0, cosine))) < 0.1  # a pixel spans 0.6 degrees


def test_nearer_part_hides_the_farther():
    red, blue = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
    parts = [sphere(0.3, 0.5, 0.0, 0.0, color=red), sphere(0.3, -0.5, 0.0, 0.0, color=blue)]
    caster = RayCaster(parts, np.array([0.0, 0.0, 1.0]))
    for side, expected in ((3.0, 0), (-3.0, 2)):
        center = caster.render(pose(side, 0.0, 0.0), FOV, 9, 1)[4, 4]
        assert center[3] == 255 and center[:3].argmax() == expected and center[2 - expected] == 0


def test_light_is_lamberts_and_shadows_fall():
    floor = trimesh.creation.box([2.0, 2.0, 0.1])
    floor.apply_translation([0.0, 0.0, -0.55])
    lid = trimesh.creation.box([0.5, 0.5, 0.1])
    lid.apply_translation([0.75, 0.0, 0.5])
    parts = [PaintedPart(mesh, plain(GRAY), np.zeros(3)) for mesh in (floor, lid)]
    # The sun stands at 45 degrees: the lid's shadow falls one unit to the side.
    caster = RayCaster(parts, np.array([1.0, 0.0, 1.0]))
    image = caster.render(pose(0.0, 0.0, 4.0), FOV, 65, 1).astype(float)[..., 0]
    lit = 0.5 * (AMBIENT + SKY + SUN * math.cos(math.radians(45.0)))
    dark = 0.5 * (AMBIENT + SKY)

    def at(x: float, y: float) -> float:
        # From straight above, the camera's up is -x and its right +y.
        scale = 32.5 / math.tan(FOV / 2.0) / 4.5
        return image[int(32.5 + x * scale), int(32.5 + y * scale)] / 255.0

    assert abs(at(-0.25, 0.0) - dark) < 0.01
    for x, y in ((-0.25, 0.6), (-0.8, 0.0), (0.15, 0.0)):
        assert abs(at(x, y) - lit) < 0.01


def test_edges_are_averaged_and_colors_are_not_darkened_by_alpha():
    image = RayCaster([sphere(0.5, 0.0, 0.0, 0.0)], np.array([0.0, 0.0, 1.0])).render(pose(0.0, 0.0, 3.0), FOV, 32, 4)
    edge = (image[..., 3] > 0) & (image[..., 3] < 255)
    assert edge.sum() > 20
    assert image[edge][:, 0].min() >= 255 * 0.5 * AMBIENT * 0.99
