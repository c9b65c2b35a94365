"""What becomes of views: that they still project where they did, and which a training gets."""

import math
from typing import List, Sequence

import numpy as np
import pytest
import roma
import torch
from camera_ring import ring
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from gnerf_ns.data.images import ImageSize
from gnerf_ns.scenes import view_sampling
from gnerf_ns.scenes.made_scenes import MadeScenes
from gnerf_ns.scenes.scene_data import SceneCameras, SceneKind, UnusableScene
from gnerf_ns.scenes.view_choice import ChosenViews, GapRule
from gnerf_ns.scenes.view_sampling import (
    STEPS_PER_GROUP,
    Example,
    ExampleConfig,
    TrainingExamples,
    Views,
    covered_and_cropped,
    in_first_frame,
    make_example,
    mirrored,
    stacked,
)
from gnerf_ns.utils.errors import InputError

SMALL = ImageSize(16, 16)


def poses_of(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotations = roma.random_rotmat(count, generator=generator, dtype=torch.float64)
    positions = torch.randn(count, 3, 1, generator=generator, dtype=torch.float64)
    return torch.cat([rotations, positions], dim=-1)


class Photographs:
    """A scene, and a group of one scene, of gray images."""

    name = "photographs"
    kind: SceneKind = "re10k"
    keys: Sequence[str] = ("only",)

    def __init__(self, cameras: SceneCameras, size: ImageSize = SMALL) -> None:
        self.cameras, self.size = cameras, size

    def image(self, frame: int) -> np.ndarray:
        return np.full((self.size.height, self.size.width, 3), frame, dtype=np.uint8)

    def scene(self, key: str) -> "Photographs":
        assert key == "only"
        return self


# The frame of an example


def test_the_first_frame_by_hand():
    # The first camera stands at (1, 2, 3) and looks along the world's x axis; the last is 4 ahead and 3 to the right.
    first = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 2.0], [0.0, 1.0, 0.0, 3.0]]).double()
    last = torch.tensor([[1.0, 0.0, 0.0, 5.0], [0.0, 1.0, 0.0, 5.0], [0.0, 0.0, 1.0, 3.0]]).double()
    between = torch.cat([first[:, :3], (first + last)[:, 3:] / 2], dim=1)
    context, target = in_first_frame(torch.stack([last, between, first]), ChosenViews((2, 0), (1,)))
    assert context[0].tolist() == torch.eye(4)[:3].tolist()
    expected = [[0.0, 1.0, 0.0, 0.6], [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.8]]
    torch.testing.assert_close(context[1], torch.tensor(expected).double())
    torch.testing.assert_close(target[0], torch.tensor([[1, 0, 0, 0.3], [0, 1, 0, 0], [0, 0, 1, 0.4]]).double())


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_the_frame_and_unit_of_the_scene_do_not_matter(seed: int, scale: float):
    poses, views = poses_of(seed, 6), ChosenViews((4, 1, 2), (0, 3, 5, 4))
    move = poses_of(seed + 1, 1)[0]
    moved = torch.cat([move[:, :3] @ poses[:, :, :3], scale * (move[:, :3] @ poses[:, :, 3:]) + move[:, 3:]], dim=-1)
    for one, other in zip(in_first_frame(poses, views), in_first_frame(moved, views), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
    context, _ = in_first_frame(poses, views)
    assert float(torch.linalg.vector_norm(context[-1, :, 3])) == pytest.approx(1.0)


@pytest.mark.parametrize("distance", [0.0, 1e-5])
def test_two_cameras_at_one_place_are_refused(distance: float):
    poses = poses_of(0, 3)
    poses[1, :, 3] = poses[0, :, 3]
    poses[1, 0, 3] += distance
    with pytest.raises(UnusableScene, match="one place"):
        in_first_frame(poses, ChosenViews((0, 1), (2,)))
    with pytest.raises(UnusableScene, match="one place"):
        make_example(Photographs(SceneCameras(ring(3).intrinsics, poses)), ChosenViews((0, 1), (2,)), SMALL)


# Pictures and lenses


@settings(deadline=None)
@given(
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
    st.tuples(st.sampled_from([16, 24, 32]), st.sampled_from([16, 24, 48])),
    st.tuples(st.floats(0.6, 1.5), st.floats(0.6, 1.5), st.floats(0.4, 0.6), st.floats(0.4, 0.6)),
)
def test_pixels_look_along_the_same_directions_after_cropping(in_size, out_size, lens):
    """An image shows a linear function of its directions, which resampling keeps, but near the picture's edge."""
    (width, height), size = in_size, ImageSize(*out_size)
    matrix = torch.tensor([[lens[0], 0.0, lens[2]], [0.0, lens[1], lens[3]], [0.0, 0.0, 1.0]])

    def shown(intrinsics: torch.Tensor, width: int, height: int) -> np.ndarray:
        columns, rows = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
        x = (columns - float(intrinsics[0, 2])) / float(intrinsics[0, 0])
        y = (rows - float(intrinsics[1, 2])) / float(intrinsics[1, 1])
        return np.stack([128 + 110 * x, 128 + 110 * y, 128 + 50 * (x - y)], axis=-1).clip(0, 255)

    whole = shown(matrix, width, height).round().astype(np.uint8)
    pixels, adjusted = covered_and_cropped(whole, matrix, size)
    assert pixels.shape == (size.height, size.width, 3)
    # Focal lengths in pixels are scaled alike.
    scale = max(size.width / width, size.height / height)
    assert float(adjusted[0, 0] * size.width) == pytest.approx(scale * lens[0] * width, rel=1e-5)
    assert float(adjusted[1, 1] * size.height) == pytest.approx(scale * lens[1] * height, rel=1e-5)
    # Within the reach of Lanczos' three lobes from the edges, and where colors are clipped, it is no longer linear.
    margin = math.ceil(3 * max(1.0, scale))
    inside = slice(margin, -margin)
    expected = shown(adjusted, size.width, size.height)[inside, inside]
    linear = (expected > 30) & (expected < 225)
    np.testing.assert_allclose(pixels[inside, inside][linear], expected[linear], atol=2.0)


def test_the_lens_of_real_estate_is_as_the_official_one():
    matrix = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.9, 0.5], [0.0, 0.0, 1.0]])
    pixels, adjusted = covered_and_cropped(np.zeros((360, 640, 3), np.uint8), matrix, ImageSize(256, 256))
    assert pixels.shape == (256, 256, 3)
    expected = torch.tensor([[0.5 * 640 / 360, 0.0, 0.5], [0.0, 0.9, 0.5], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(adjusted, expected)


def test_an_image_of_the_right_size_is_not_resampled():
    image = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    matrix = torch.tensor([[0.5, 0.0, 0.4], [0.0, 0.9, 0.6], [0.0, 0.0, 1.0]])
    pixels, adjusted = covered_and_cropped(image, matrix, ImageSize(24, 16))
    assert pixels is image and torch.equal(adjusted, matrix)


def projected(views: Views, point: torch.Tensor) -> torch.Tensor:
    """Where a point is in each image, as shares of width and height."""
    in_cameras = (point - views.camera_to_worlds[:, :, 3])[:, None] @ views.camera_to_worlds[:, :, :3]
    pixels = (in_cameras @ views.intrinsics.mT)[:, 0]
    return pixels[:, :2] / pixels[:, 2:]


@given(st.integers(0, 2**31))
def test_a_mirrored_point_is_at_the_mirrored_pixel(seed: int):
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.eye(3).double().repeat(3, 1, 1)
    matrices[:, :2] += torch.rand(3, 2, 3, generator=generator).double() * torch.tensor([[1, 0, 1], [0, 1, 1]])
    images = torch.rand(3, 3, 4, 6, generator=generator)
    views = Views(images, matrices.float(), poses_of(seed, 3).float())
    flipped = mirrored(views)
    point = torch.randn(3, generator=generator)
    before, after = projected(views, point), projected(flipped, point * torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(after, torch.stack([1.0 - before[:, 0], before[:, 1]], dim=1), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(torch.linalg.det(flipped.camera_to_worlds[:, :, :3]), torch.ones(3))
    assert torch.equal(flipped.images, images.flip(-1))
    torch.testing.assert_close(vars(mirrored(flipped)), vars(views))


def test_an_example_has_the_frames_that_were_chosen():
    example = make_example(Photographs(ring(9), ImageSize(30, 20)), ChosenViews((2, 5, 7), (7, 3, 3, 2)), SMALL)
    for views, frames in ((example.context, [2, 5, 7]), (example.target, [7, 3, 3, 2])):
        assert views.images.shape == (len(frames), 3, 16, 16) and views.intrinsics.shape == (len(frames), 3, 3)
        assert (views.images[:, 0, 8, 8] * 255).round().tolist() == frames
    torch.testing.assert_close(example.target.camera_to_worlds[0], example.context.camera_to_worlds[2])
    torch.testing.assert_close(example.target.camera_to_worlds[3], torch.eye(4)[:3])
    batch = stacked([example, example])
    assert batch.target.images.shape == (2, 4, 3, 16, 16) and batch.context.camera_to_worlds.shape == (2, 3, 3, 4)
    torch.testing.assert_close(batch.to("cpu").context.images[1], example.context.images)


# Training


def equal(one: Example, other: Example) -> bool:
    pairs = zip((one.context, one.target), (other.context, other.target), strict=True)
    return all(torch.equal(getattr(a, name), getattr(b, name)) for a, b in pairs for name in vars(a))


def made(batch_size: int, **options) -> TrainingExamples:
    groups = [MadeScenes(range(10**4, 10**4 + 3), kind, SMALL) for kind in ("balls-and-boxes", "other-solids")]
    return TrainingExamples(groups, ExampleConfig(SMALL, num_targets=2), batch_size, **options)


def test_examples_depend_on_seed_step_and_index_alone():
    alone, again = made(4), made(4)
    again.batch(17)  # what was drawn before does not matter
    whole = alone.batch(3)
    assert equal(whole, again.batch(3))
    assert not equal(whole, alone.batch(4)) and not equal(whole, made(4, seed=1).batch(3))
    parts = [made(2, rank=rank).batch(3) for rank in (0, 1)]
    for views, halves in ((whole.context, [part.context for part in parts]), (whole.target, [p.target for p in parts])):
        for name in vars(views):
            assert torch.equal(getattr(views, name), torch.cat([getattr(half, name) for half in halves]))
    images = whole.context.images
    assert not any(torch.equal(images[i], images[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_loader_gives_the_batches_in_order(num_workers: int):
    examples = made(1, first_step=5)
    loader = iter(DataLoader(examples, batch_size=None, num_workers=num_workers))
    for step in range(5, 10):
        assert equal(next(loader), examples.batch(step))


def test_half_of_the_examples_are_mirrored():
    scene = Photographs(ring(9))
    scene.cameras.intrinsics[:, 0, 2] = 0.4
    config = ExampleConfig(SMALL, num_targets=1, rules={"re10k": GapRule((2, 2), (2, 2))})
    examples = TrainingExamples([scene], config, 1)
    centers = torch.stack([examples.example(step, 0).context.intrinsics[0, 0, 2] for step in range(200)])
    assert 70 < int((centers > 0.5).sum()) < 130


def test_groups_are_drawn_by_their_scenes_and_kept_for_some_steps(monkeypatch):
    few, many = Photographs(ring(9)), Photographs(ring(9))
    many.keys = ("only",) * 3
    config = ExampleConfig(SMALL, num_targets=1, rules={"re10k": GapRule((2, 2), (2, 2))})
    examples = TrainingExamples([few, many], config, 1)
    used: List[Photographs] = []
    monkeypatch.setattr(Photographs, "scene", lambda self, key: used.append(self) or self)
    for step in range(0, 40 * STEPS_PER_GROUP, STEPS_PER_GROUP // 2):
        examples.example(step, 3)
    shares = np.array([one is many for one in used])
    assert 0.55 < shares.mean() < 0.92
    # The group of index 3 changes at the steps 61, 125, …: between these, two examples were drawn.
    assert (shares[::2] == shares[1::2]).all() and len(set(shares[::2].tolist())) == 2


def test_scenes_that_cannot_be_used_are_passed_over_and_counted(monkeypatch):
    said: List[str] = []
    monkeypatch.setattr(view_sampling, "remark", said.append)
    config = ExampleConfig(SMALL, num_targets=1, rules={"re10k": GapRule((2, 2), (2, 2))})
    good, short, wide = Photographs(ring(9)), Photographs(ring(2)), Photographs(ring(9, fov_deg=101.0))
    small = Photographs(ring(9), ImageSize(16, 15))
    at_one_place = Photographs(SceneCameras(ring(9).intrinsics, poses_of(0, 1).repeat(9, 1, 1)))
    examples = TrainingExamples([short, wide, good, small, at_one_place, at_one_place], config, 4)
    (line,) = said
    assert line.startswith("5 of 6 scenes")
    for reason in ("2 for two cont", "1 for too few", "1 for a field of view above 100", "1 for images smaller"):
        assert reason in line
    for step in range(5):
        assert examples.batch(step).context.images.shape == (4, 2, 3, 16, 16)
    TrainingExamples([good], config, 4)
    assert len(said) == 1
    with pytest.raises(InputError, match="None of 2 scenes"):
        TrainingExamples([short, wide], config, 4)


def test_training_ends_where_nothing_can_be_used_any_longer():
    scene = Photographs(ring(9))
    config = ExampleConfig(SMALL, num_targets=1, rules={"re10k": GapRule((2, 2), (2, 2))})
    examples = TrainingExamples([scene], config, 1)
    scene.cameras = ring(2)
    with pytest.raises(InputError, match="in a row"):
        examples.batch(0)


@pytest.mark.parametrize("flip", [False, True])
def test_points_are_what_the_pixels_of_the_context_show(flip: bool):
    size = ImageSize(24, 16)
    scene = MadeScenes(range(1), "balls-and-boxes", size).scene("0")
    example = make_example(scene, ChosenViews((4, 30), (9,)), size, flip, with_points=True)
    assert example.points is not None and example.points.shape == (2, 16, 24, 3)
    poses, intrinsics = example.context.camera_to_worlds, example.context.intrinsics
    in_camera = (example.points.flatten(1, 2) - poses[:, None, :, 3]) @ poses[:, :, :3]
    shares = in_camera @ intrinsics.mT
    pixels = (shares[..., :2] / shares[..., 2:] * torch.tensor([24.0, 16.0])).unflatten(1, (16, 24))
    x, y = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(16) + 0.5, indexing="xy")
    torch.testing.assert_close(pixels, torch.stack([x, y], dim=-1).expand(2, 16, 24, 2), atol=1e-3, rtol=0.0)
    positions = scene.cameras.camera_to_worlds[:, :, 3]
    baseline = (positions[30] - positions[4]).norm()
    depths = torch.stack([scene.depth(frame) for frame in (4, 30)]) / baseline
    expected = depths.flip(-1) if flip else depths
    torch.testing.assert_close(in_camera[..., 2].unflatten(1, (16, 24)).double(), expected, atol=1e-5, rtol=1e-5)


def test_examples_of_the_first_steps_have_no_targets():
    group = MadeScenes(range(10_000, 10_012), "balls-and-boxes", SMALL)
    config = ExampleConfig(size=SMALL, num_targets=3, with_points=True, point_steps=1)
    examples = TrainingExamples([group], config, batch_size=2)
    first, second = examples.batch(0), examples.batch(1)
    for example in (first, second):
        assert example.points is not None and example.points.shape == (2, 2, 16, 16, 3)
    assert first.target.images.shape == (2, 0, 3, 16, 16) and second.target.images.shape[1] == 3
    assert first.target.camera_to_worlds.shape == (2, 0, 3, 4) and first.target.intrinsics.shape == (2, 0, 3, 3)
    moved = first.to("meta")
    assert moved.points is not None and moved.points.is_meta
