"""Views as cameras: what is seen does not depend on whose cameras they are."""

import math
from dataclasses import replace

import roma
import torch
from tiny_noposplat import EXAMPLE_SIZE, example_of, true_gaussians

from gnerf_ns.data.images import ImageSize
from gnerf_ns.noposplat.view_cameras import UPRIGHT, nerfstudio_cameras, pinhole_views, rendered
from gnerf_ns.scenes.view_sampling import Views, stacked
from gnerf_ns.splats.gaussians import Gaussians


def test_true_points_show_what_was_filmed():
    """Points, poses and lenses of an example belong together, for targets too: turned by 6 degrees, they do not."""
    example = example_of(5, ImageSize(96, 64))
    target = stacked([example]).target
    gaussians = Gaussians(*(value[None] for value in vars(true_gaussians(example)).values()))

    def errors(views: Views) -> torch.Tensor:
        return (rendered(gaussians, views) - views.images).square().mean(dim=(0, 2, 3, 4))

    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, math.radians(6.0), 0.0]))
    turned = torch.cat([target.camera_to_worlds[..., :3] @ turn, target.camera_to_worlds[..., 3:]], dim=-1)
    true, wrong = errors(target), errors(replace(target, camera_to_worlds=turned))
    assert bool((true < 0.9 * wrong).all()), true / wrong


def test_nerfstudio_sees_the_same_in_the_upright_world():
    example = example_of(6)
    cameras = nerfstudio_cameras(example.target)
    upright = true_gaussians(example).moved(UPRIGHT)
    for index, view in enumerate(pinhole_views(example.target)):
        camera = cameras[index]
        # Axes: x is the same, y and z point the other way.
        camera_to_world = camera.camera_to_worlds * torch.tensor([1.0, -1.0, -1.0, 1.0])
        in_camera = (upright.means - camera_to_world[:, 3]) @ camera_to_world[:, :3]
        expected = true_gaussians(example).means @ view.world_to_camera[:, :3].mT + view.world_to_camera[:, 3]
        torch.testing.assert_close(in_camera, expected, atol=1e-4, rtol=1e-4)
        assert (int(camera.width), int(camera.height)) == EXAMPLE_SIZE
        torch.testing.assert_close(torch.stack([camera.fx, camera.fy])[:, 0], view.focal)
        torch.testing.assert_close(torch.stack([camera.cx, camera.cy])[:, 0], view.center)


def test_the_first_camera_is_level_and_looks_along_y():
    pose = nerfstudio_cameras(example_of(7).context).camera_to_worlds[0]
    torch.testing.assert_close(pose[:, 1], torch.tensor([0.0, 0.0, 1.0]))  # up
    torch.testing.assert_close(-pose[:, 2], torch.tensor([0.0, 1.0, 0.0]))  # forward
    assert not pose[:, 3].any()


def test_several_scenes_are_drawn_each_by_itself():
    examples = [example_of(seed) for seed in (5, 8)]
    both = [true_gaussians(example) for example in examples]
    batch = stacked(examples)
    joined = Gaussians(*(torch.stack(pair) for pair in zip(*(vars(each).values() for each in both), strict=True)))
    images = rendered(joined, batch.target)
    assert images.shape == batch.target.images.shape
    alone = rendered(joined[1:], Views(*(value[1:] for value in vars(batch.target).values())))
    torch.testing.assert_close(images[1:], alone)
