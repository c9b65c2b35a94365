"""The 9-D pose code: round trip, projection to rotations, singular codes, gradients."""

import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_codec import PoseCodec, decode_pose_9d, encode_pose_9d

numbers = st.floats(-1e3, 1e3, width=32)

SINGULAR = torch.tensor(
    [
        [0.0] * 6,
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        [1.0, 2.0, 3.0, 1.0, 2.0, 3.0],
        [1.0, 2.0, 3.0, -10.0, -20.0, -30.0],
        [1.0, 2.0, 3.0, 1.0, 2.0, 3.0003],
        [100.0, 200.0, 300.0, 100.0, 200.0, 300.0],
        [1e-20, 0.0, 0.0, 0.0, 1e-20, 0.0],
    ]
)


def test_golden_layout() -> None:
    pose = torch.tensor([[0.0, 1.0, 0.0, 7.0], [0.0, 0.0, 1.0, 8.0], [1.0, 0.0, 0.0, 9.0]])
    assert encode_pose_9d(pose).tolist() == [9.0, 7.0, 8.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]


def test_cameras_that_look_at_the_origin_differ_in_their_rotation_alone() -> None:
    positions = 2.0 * torch.nn.functional.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(encode_pose_9d(look_at(positions))[:, :3], torch.tensor([[0.0, 0.0, 2.0]]).expand(20, 3))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(), (1,), (4,), (2, 3)]))
def test_round_trip(seed: int, batch: tuple) -> None:
    generator = torch.Generator().manual_seed(seed)
    rotations = roma.random_rotmat(batch, generator=generator)
    poses = torch.cat([rotations, torch.randn(*batch, 3, 1, generator=generator)], dim=-1)
    codes = encode_pose_9d(poses)
    assert codes.shape == (*batch, 9)
    torch.testing.assert_close(decode_pose_9d(codes), poses, atol=2e-6, rtol=1e-5)


@settings(deadline=None)
@given(st.lists(numbers, min_size=9, max_size=9))
def test_every_code_is_a_proper_rotation(values: list) -> None:
    rotation = decode_pose_9d(torch.tensor(values))[:, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3), atol=2e-6, rtol=0.0)
    torch.testing.assert_close(torch.det(rotation), torch.tensor(1.0))


def test_singular_codes_are_proper_with_bounded_gradients() -> None:
    codes = torch.cat([torch.zeros(len(SINGULAR), 3), SINGULAR], dim=-1).requires_grad_()
    poses = decode_pose_9d(codes)
    rotations = poses[..., :3]
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand_as(rotations), atol=2e-6, rtol=0.0)
    torch.testing.assert_close(torch.det(rotations), torch.ones(len(SINGULAR)))
    weights = torch.randn(poses.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((poses * weights).sum(), codes)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e6


def test_matches_gram_schmidt_written_out() -> None:
    code = torch.tensor([0.0, 0.0, 0.0, 3.0, 0.0, 4.0, 1.0, 2.0, 0.0], dtype=torch.float64)
    first = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    second = torch.tensor([1.0 - 0.36, 2.0, -0.48], dtype=torch.float64)
    second = second / second.norm()
    expected = torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)
    torch.testing.assert_close(decode_pose_9d(code)[:, :3], expected)


def test_gradients_in_double_precision() -> None:
    codes = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(decode_pose_9d, (codes,))


def test_perturbed_poses_are_near_and_of_the_codecs_kind() -> None:
    torch.manual_seed(0)
    position = 2.75 * torch.nn.functional.normalize(torch.tensor([1.0, 2.0, 1.5]), dim=0)
    poses = look_at(position).expand(2000, 3, 4)
    for mode in ("look_at", "free"):
        perturbed = PoseCodec(mode, 2.75).perturb(poses, 0.03)
        angles = roma.rotmat_geodesic_distance(perturbed[..., :3], poses[..., :3])
        # Two to three axes of about 0.03 rad each.
        assert 0.03 < float(angles.square().mean().sqrt()) < 0.08
        if mode == "look_at":
            torch.testing.assert_close(perturbed, look_at(perturbed[..., 3]))
            assert abs(float((perturbed[..., 3] - position).std()) - 0.03 * 2.75) < 0.005
