import roma
import torch

from gnerf_ns.splats.axes import camera_to_worlds, inverse_poses, world_to_cameras


def poses(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    turns = roma.rotvec_to_rotmat(torch.randn(count, 3, generator=generator, dtype=torch.float64))
    return torch.cat([turns, torch.randn(count, 3, 1, generator=generator, dtype=torch.float64)], dim=-1)


def test_what_is_before_and_above_nerfstudios_camera_is_at_positive_z_and_negative_y():
    pose = torch.eye(4)[:3]  # looks along -z, y is up
    pose[:, 3] = torch.tensor([1.0, 2.0, 3.0])
    point = torch.tensor([1.5, 2.25, -1.0, 1.0])
    torch.testing.assert_close(world_to_cameras(pose) @ point, torch.tensor([0.5, -0.25, 4.0]))


def test_there_and_back():
    given = poses(5)
    torch.testing.assert_close(camera_to_worlds(world_to_cameras(given)), given)
    torch.testing.assert_close(inverse_poses(inverse_poses(given)), given)
