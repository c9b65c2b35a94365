"""The live view in a real viewer of nerfstudio's, watched by a made-up visitor; and what it says of the training."""

import math
from types import SimpleNamespace
from typing import Any, Dict, List
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
import torch
import viser
import viser.transforms as vtf
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.models.base_model import Model
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer import Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement
from torch import nn
from watched_pipeline import SCHEDULE, GivenDataManager, WatchedPipeline

from gnerf_ns.cameras.learned_cameras import LearnedCameras, Split
from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.data.image_set import ImageStack
from gnerf_ns.training.live_view import (
    CPU_MAX_RESOLUTION,
    TrainingStatus,
    first_viewpoint,
    frustum_scale,
    look_of,
    photo_of,
    sentence_of,
)
from gnerf_ns.training.placement import PoseOrigin
from gnerf_ns.training.pose_status import PoseStatus
from gnerf_ns.viewing.confidence_colors import UNKNOWN_COLOR, confidence_color
from gnerf_ns.viewing.frusta import frustum_depth, viser_pose
from gnerf_ns.viewing.photo_planes import PlaneBounds


def cameras(count: int, seed: int) -> Cameras:
    positions = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    poses = look_at(2.8 * nn.functional.normalize(positions, dim=-1))
    return Cameras(poses, fx=100.0, fy=100.0, cx=40.0, cy=30.0, width=80, height=60)


Z = torch.tensor([0.0, 0.0, 1.0])


class FakeModel(Model):
    """Says how it was when it rendered."""

    device = torch.device("cpu")  # type: ignore[assignment]

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.rendered: List[Any] = []

    def get_outputs_for_camera(self, camera: Cameras) -> Dict[str, torch.Tensor]:
        self.rendered.append((self.training, torch.is_grad_enabled(), int(camera.width) * int(camera.height)))
        return {}


def gray(count: int) -> ImageStack:
    return ImageStack(torch.full((count, 60, 80, 3), 128, dtype=torch.uint8))


class FakePipeline(WatchedPipeline):
    """Nine gray images and four held-out ones."""

    model: FakeModel

    def __init__(self, on_cpu: bool = True, **options: Any) -> None:
        given, held_out = cameras(9, 1), cameras(4, 1)
        learned = LearnedCameras(given, held_out, **options)
        learned.assign(torch.arange(9), cameras(9, 0).camera_to_worlds)
        super().__init__(FakeModel(), GivenDataManager(given, held_out, gray(9), gray(4)), learned, on_cpu)


@pytest.fixture
def viewer_of(tmp_path):
    viewers = []

    def build(pipeline: FakePipeline, config: ViewerConfig) -> Viewer:
        config.websocket_host = "127.0.0.1"
        log = tmp_path / "viewer_log.txt"
        viewers.append(Viewer(config, log, tmp_path, pipeline))  # type: ignore[arg-type]
        viewers[-1].init_scene([], "training")  # type: ignore[arg-type]
        return viewers[-1]

    yield build
    for viewer in viewers:
        viewer.viser_server.stop()


def shown_poses(pipeline: FakePipeline, split: Split = "train") -> torch.Tensor:
    """Where frusta are, as camera_to_worlds with OpenGL axes in scene units."""
    nodes = [drawn.node for drawn in pipeline.live_view._frusta[split]._drawn.values()]
    rotations = [(vtf.SO3(node.wxyz) @ vtf.SO3.from_x_radians(math.pi)).as_matrix() for node in nodes]
    positions = [np.asarray(node.position) / 10.0 for node in nodes]
    return torch.from_numpy(np.concatenate([np.stack(rotations), np.stack(positions)[..., None]], axis=-1))


def watch(viewer: Viewer) -> None:
    viewer.viser_server.get_clients = lambda: {0: Mock(spec=viser.ClientHandle)}


def lines(server: viser.ViserServer) -> Dict[str, Any]:
    """Has what is drawn from now on recorded: arguments of the lines by name."""
    drawn: Dict[str, Any] = {}
    real = server.scene.add_spline_catmull_rom

    def add(name, positions, **options):
        drawn[name] = (np.array(positions), options)
        return real(name, positions, **options)

    setattr(server.scene, "add_spline_catmull_rom", add)  # noqa: B010 - pyright knows its signature
    return drawn


SURE = PoseStatus(PoseOrigin.MATCHES, 0.97, False, 0.1, 0.002, 0.0)
DOUBTED = PoseStatus(PoseOrigin.APPEARANCE, 0.4, True, 2.0, 0.1, 0.6)


def test_viewer_finds_view_and_status_once():
    pipeline = FakePipeline()
    controls = parse_object(pipeline, ViewerControl, "Custom Elements")
    elements = parse_object(pipeline, ViewerElement, "Custom Elements")
    assert controls == [("Custom Elements/live_view", pipeline.live_view)]
    assert elements == [("Custom Elements/training_status", pipeline.training_status)]


def test_frusta_follow_the_estimate_only_while_somebody_watches(viewer_of):
    pipeline = FakePipeline()
    viewer = viewer_of(pipeline, ViewerConfig())
    before = shown_poses(pipeline)
    torch.testing.assert_close(before, pipeline.poses.double(), atol=1e-5, rtol=0)
    pipeline.cameras.assign(torch.arange(9), cameras(9, 5).camera_to_worlds)

    pipeline.live_view.update()
    torch.testing.assert_close(shown_poses(pipeline), before)

    watch(viewer)
    pipeline.live_view.update()
    expected = pipeline.poses.double()
    torch.testing.assert_close(shown_poses(pipeline), expected, atol=1e-5, rtol=0)
    assert (before - expected).abs().max() > 0.1


def test_held_out_frusta_and_their_switch_appear_with_their_first_estimate(viewer_of):
    pipeline = FakePipeline()
    viewer = viewer_of(pipeline, ViewerConfig())
    watch(viewer)
    view = pipeline.live_view
    assert not view._frusta["eval"]._drawn and not view._held_out_switch.visible

    for seed in (2, 3):
        pipeline.cameras.assign_eval(cameras(4, seed).camera_to_worlds, seed)
        view.update()
        expected = cameras(4, seed).camera_to_worlds.double()
        torch.testing.assert_close(shown_poses(pipeline, "eval"), expected, atol=1e-5, rtol=0)
    assert view._held_out_switch.visible


def press(handle: Any, value: Any = True) -> None:
    """What viser does when a visitor uses an element, without its threads."""
    handle._impl.value = value
    for callback in handle._impl.update_cb:
        callback(Mock(client=Mock(), target=handle))


def test_either_split_is_hidden_by_its_own_switch(viewer_of):
    pipeline = FakePipeline()
    pipeline.cameras.assign_eval(cameras(4, 2).camera_to_worlds, 0)
    viewer, view = viewer_of(pipeline, ViewerConfig()), pipeline.live_view

    def visible() -> List[bool]:
        return [view._frusta[split].is_visible for split in ("train", "eval")]

    press(viewer.hide_images)
    assert visible() == [False, True]
    press(view._held_out_switch, False)
    assert visible() == [False, False]
    press(viewer.show_images)
    press(view._held_out_switch, True)
    assert visible() == [True, True]


def test_no_viewer_costs_nothing(monkeypatch: pytest.MonkeyPatch):
    pipeline = FakePipeline()
    monkeypatch.setattr(LearnedCameras, "estimated", lambda *arguments: pytest.fail("cameras that nobody sees"))
    pipeline.live_view.update()
    pipeline.live_view.report(3)


def test_frusta_are_drawn_again_only_when_they_look_otherwise(viewer_of):
    pipeline = FakePipeline(focal_mode="shared")
    viewer = viewer_of(pipeline, ViewerConfig())
    watch(viewer)
    drawn = lines(viewer.viser_server)

    pipeline.cameras.assign(torch.arange(9), cameras(9, 5).camera_to_worlds)
    pipeline.live_view.update()
    assert not drawn

    with torch.no_grad():
        pipeline.cameras.focal_scales.logarithms.fill_(math.log(2.0))
    pipeline.live_view.update()
    (points, options) = drawn["/cameras/camera_00000"]
    assert np.abs(points[:, 0]).max() / points[:, 2].max() == pytest.approx(40 / 200, rel=1e-5)
    assert options["color"] == UNKNOWN_COLOR and options["line_width"] < 2

    drawn.clear()
    pipeline.statuses = {"train": [SURE, DOUBTED, *[SURE] * 7]}
    pipeline.live_view.update()
    assert drawn["/cameras/camera_00000"][1]["color"] == confidence_color(0.1)
    assert drawn["/cameras/camera_00001"][1]["color"] == look_of(DOUBTED).color
    flags = [name for name in drawn if name.endswith("flag")]
    assert flags == ["/cameras/camera_00001/flag"] and drawn[flags[0]][1]["line_width"] > 3


def test_a_tiny_image_is_rendered_before_anybody_waits_for_one(viewer_of):
    pipeline = FakePipeline()
    viewer_of(pipeline, ViewerConfig())
    assert pipeline.model.rendered == [(False, False, 64)] and pipeline.model.training


def test_few_of_many_cameras_are_drawn_if_the_viewer_is_told_so(viewer_of):
    pipeline = FakePipeline()
    viewer_of(pipeline, ViewerConfig(max_num_display_images=3))
    assert list(pipeline.live_view._frusta["train"]._drawn) == [0, 4, 8]


def test_the_step_is_said_once_and_right(viewer_of):
    """nerfstudio's own line counts from 0, is seldom written in training, and never by ns-viewer."""
    pipeline = FakePipeline()
    pipeline.live_view.report(1499)  # as ns-viewer loads a checkpoint, before it builds the viewer
    viewer = viewer_of(pipeline, ViewerConfig())
    assert viewer.stats_markdown.content.startswith("Step: 1499 ")
    pipeline.live_view.report(1510)
    assert viewer.stats_markdown.content.startswith("Step: 1510 ")
    pipeline.training_status.report(35)
    assert "35" not in pipeline.training_status.text.replace("36", "")


def test_what_is_known_of_a_pose_in_words():
    said = sentence_of(SURE)
    assert "matches" in said and "0.1°" in said and "0.2 %" in said and "0%" in said and "97%" in said
    assert "trust" not in said
    assert sentence_of(DOUBTED).startswith("**Do not trust.**") and "60%" in sentence_of(DOUBTED)
    unknown = sentence_of(PoseStatus(PoseOrigin.GIVEN, 0.9, False))
    assert "nan" not in unknown and "given" in unknown
    assert "end of training" in sentence_of(None)


def test_photos_are_laid_over_the_background_and_transparent_where_padded():
    pixels = torch.zeros(1, 4, 8, 4, dtype=torch.uint8)
    pixels[..., :4, :] = 255
    photo = photo_of(ImageStack(pixels, torch.tensor([[0.5, 1.0]])), 0, torch.tensor([1.0, 0.0, 0.0]))
    assert photo[0, 3].tolist() == [255, 255, 255, 255]
    assert photo[0, 4].tolist() == [255, 0, 0, 255]
    assert photo[:, :2, 3].tolist() == [[0, 0]] * 4 and photo[:, 6:, 3].tolist() == [[0, 0]] * 4


@pytest.mark.parametrize("on_cpu, expected", [(True, CPU_MAX_RESOLUTION), (False, 512)])
def test_resolution_suits_the_machine(viewer_of, on_cpu, expected):
    panel = viewer_of(FakePipeline(on_cpu), ViewerConfig()).control_panel
    assert panel.max_res == expected and not panel.layer_depth


def test_frusta_of_default_size_are_enlarged_and_chosen_sizes_kept(viewer_of):
    pipeline = FakePipeline()
    assert viewer_of(pipeline, ViewerConfig()).config.camera_frustum_scale == pytest.approx(10 * 2.8 * 0.04)
    chosen = ViewerConfig(camera_frustum_scale=0.7)
    assert viewer_of(pipeline, chosen).config.camera_frustum_scale == 0.7


def test_frusta_shrink_as_they_become_many():
    assert frustum_scale(cameras(400, 0).camera_to_worlds) == pytest.approx(10 * 2.8 * 0.45 / 20)


def test_a_visitor_starts_among_the_cameras_and_looks_at_the_object(viewer_of):
    pipeline = FakePipeline()
    viewer_of(pipeline, ViewerConfig())
    client = Mock(spec=viser.ClientHandle)
    client.atomic, client.camera = Mock(return_value=Mock(__enter__=Mock(), __exit__=Mock())), SimpleNamespace()
    client.client_id, client.gui = 0, MagicMock()
    pipeline.live_view._welcome(client)
    heights = pipeline.poses[:, 2, 3]
    assert client.camera.position[2] == pytest.approx(7.5 * float(heights.median()), rel=1e-5)
    assert np.linalg.norm(client.camera.position) == pytest.approx(7.5 * 2.8, rel=1e-5)
    assert client.camera.look_at == (0.0, 0.0, 0.0)


def test_first_viewpoint_is_of_median_height_over_what_is_up():
    poses = look_at(3.0 * torch.eye(3))
    np.testing.assert_allclose(first_viewpoint(poses, torch.tensor([0.0, 0.6, 0.8])), [0.0, 2.25, 0.0], atol=1e-6)


def test_first_viewpoint_of_a_single_camera():
    pose = look_at(torch.tensor([[0.0, 3.0, 1.0]]))
    np.testing.assert_allclose(first_viewpoint(pose, Z), [0.0, 2.25, 0.75], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 10, 1000])
@pytest.mark.parametrize("fov_deg", [20.0, 40.0, 90.0])
def test_no_frustum_reaches_the_first_viewpoint(count, fov_deg):
    poses = cameras(count, 0).camera_to_worlds
    half = math.tan(math.radians(fov_deg) / 2)
    depth = frustum_depth(PlaneBounds(-half, -half, half, half), frustum_scale(poses))
    assert np.linalg.norm(10 * first_viewpoint(poses, Z)) < 0.98 * (10 * 2.8 - depth)


def test_viser_axes_point_forward_and_down():
    # A camera above the origin that looks down its own -z axis; in OpenCV axes that is +z, and +y is down.
    pose = look_at(torch.tensor([[2.0, 0.0, 0.0]]))
    orientations, positions = viser_pose(pose)
    axes = vtf.SO3(orientations[0]).as_matrix()
    np.testing.assert_allclose(positions, [[20.0, 0.0, 0.0]])
    np.testing.assert_allclose(axes[:, 2], [-1.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(axes[:, 1], [0.0, 0.0, -1.0], atol=1e-6)


# Phase


@pytest.mark.parametrize(
    "step, phase, end", [(0, "A", 10), (9, "A", 10), (10, "AB", 16), (11, "AB", 16), (16, "B", 36), (35, "B", 36)]
)
def test_says_phase_and_its_end(step, phase, end):
    status = TrainingStatus(lambda: SCHEDULE)
    status.report(step)
    assert status.text.startswith(f"**Phase {phase}**")
    assert f"(to step {end})" in status.text


def test_panel_shows_what_was_reported_before_and_after_it_was_built():
    status = TrainingStatus(lambda: SCHEDULE)
    server = Mock(spec=viser.ViserServer)
    server.gui = Mock()
    markdown = server.gui.add_markdown.return_value = Mock(spec=viser.GuiMarkdownHandle)
    status.report(3)
    status.install(server)
    server.gui.add_markdown.assert_called_once_with(status.text)
    status.report(20)
    assert markdown.content == status.text
    assert "Phase B" in status.text


def test_the_status_follows_a_restart_of_phase_a():
    present = [SCHEDULE]
    status = TrainingStatus(lambda: present[0])
    status.report(11)
    assert "Phase AB" in status.text
    present[0] = SCHEDULE.begun_anew(11)
    status.report(11)
    assert "Phase A**" in status.text and "to step 21" in status.text
