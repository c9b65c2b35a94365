"""The live view in a real viewer of nerfstudio's, watched by a made-up visitor; and what it says of the training."""

import math
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import viser
import viser.transforms as vtf
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer import Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement
from torch import nn

from gnerf_ns.cameras.learned_cameras import LearnedCameras
from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.data.datamanager import UnposedDataManager
from gnerf_ns.training.live_view import (
    CPU_MAX_RESOLUTION,
    LiveView,
    TrainingStatus,
    first_viewpoint,
    frustum_scale,
    viser_pose,
)
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule


def cameras(count: int, seed: int) -> Cameras:
    positions = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    poses = look_at(2.8 * nn.functional.normalize(positions, dim=-1))
    return Cameras(poses, fx=100.0, fy=100.0, cx=40.0, cy=30.0, width=80, height=60)


Z = torch.tensor([0.0, 0.0, 1.0])


SCHEDULE = Schedule.of(PhaseScheduleConfig(phase_a_steps=10, interleaved_steps=6, phase_b_steps=20), 100, 100)


class FakeDataManager(UnposedDataManager):
    """Given cameras, without images."""

    def __init__(self, given: Cameras, held_out: Cameras) -> None:
        nn.Module.__init__(self)
        self.includes_time = False
        self.train_dataset: Any = SimpleNamespace(given_cameras=given)
        self.eval_dataset: Any = SimpleNamespace(given_cameras=held_out)


class FakePipeline(nn.Module):
    """What the viewer asks of a pipeline, with estimates that a test can change."""

    def __init__(self, on_cpu: bool = True):
        super().__init__()
        given, held_out = cameras(9, 1), cameras(4, 1)
        self.cameras = LearnedCameras(given, held_out)
        self.cameras.assign(torch.arange(9), cameras(9, 0).camera_to_worlds)
        self.datamanager = FakeDataManager(given, held_out)
        self.model = nn.Linear(1, 1)
        self.live_view = LiveView(self.cameras, self.datamanager, on_cpu)
        self.training_status = TrainingStatus(lambda: SCHEDULE)

    @property
    def poses(self) -> torch.Tensor:
        """Estimated poses of the training images."""
        return self.cameras.poses("train")


class FakeDataset:
    """Gray images of cameras that were somewhere else when the viewer drew them."""

    cameras = cameras(9, 1)

    def __len__(self):
        return 9

    def __getitem__(self, index):
        return {"image": torch.full((60, 80, 3), 0.5)}


@pytest.fixture
def viewer_of(tmp_path):
    viewers = []

    def build(pipeline: FakePipeline, config: ViewerConfig) -> Viewer:
        config.websocket_host = "127.0.0.1"
        log = tmp_path / "viewer_log.txt"
        viewers.append(Viewer(config, log, tmp_path, pipeline))  # type: ignore[arg-type]
        viewers[-1].init_scene(FakeDataset(), "training")  # type: ignore[arg-type]
        return viewers[-1]

    yield build
    for viewer in viewers:
        viewer.viser_server.stop()


def shown_poses(frusta) -> torch.Tensor:
    """Where frusta are, as camera_to_worlds with OpenGL axes in scene units."""
    rotations = [(vtf.SO3(frustum.wxyz) @ vtf.SO3.from_x_radians(math.pi)).as_matrix() for frustum in frusta.values()]
    positions = [np.asarray(frustum.position) / 10.0 for frustum in frusta.values()]
    return torch.from_numpy(np.concatenate([np.stack(rotations), np.stack(positions)[..., None]], axis=-1))


def watch(viewer: Viewer) -> None:
    viewer.viser_server.get_clients = lambda: {0: Mock(spec=viser.ClientHandle)}


def test_viewer_finds_view_and_status_once():
    pipeline = FakePipeline()
    controls = parse_object(pipeline, ViewerControl, "Custom Elements")
    elements = parse_object(pipeline, ViewerElement, "Custom Elements")
    assert controls == [("Custom Elements/live_view", pipeline.live_view)]
    assert elements == [("Custom Elements/training_status", pipeline.training_status)]


def test_frusta_follow_the_estimate_only_while_somebody_watches(viewer_of):
    pipeline = FakePipeline()
    viewer = viewer_of(pipeline, ViewerConfig())
    before = shown_poses(viewer.camera_handles)

    pipeline.live_view.update()
    torch.testing.assert_close(shown_poses(viewer.camera_handles), before)

    watch(viewer)
    pipeline.live_view.update()
    expected = pipeline.poses.double()
    torch.testing.assert_close(shown_poses(viewer.camera_handles), expected, atol=1e-5, rtol=0)
    assert (before - expected).abs().max() > 0.1


def test_held_out_frusta_appear_with_their_first_estimate_and_move_with_later_ones(viewer_of):
    pipeline = FakePipeline()
    viewer = viewer_of(pipeline, ViewerConfig())
    watch(viewer)
    pipeline.live_view.update()
    assert not pipeline.live_view._held_out_frusta

    for seed in (2, 3):
        pipeline.cameras.assign_eval(cameras(4, seed).camera_to_worlds, seed)
        pipeline.live_view.update()
        shown = shown_poses(pipeline.live_view._held_out_frusta)
        torch.testing.assert_close(shown, cameras(4, seed).camera_to_worlds.double(), atol=1e-5, rtol=0)


def test_no_viewer_costs_nothing(monkeypatch: pytest.MonkeyPatch):
    pipeline = FakePipeline()
    monkeypatch.setattr(LearnedCameras, "estimated", lambda *arguments: pytest.fail("cameras that nobody sees"))
    pipeline.live_view.update()


def test_frusta_have_the_learned_focal_lengths(viewer_of):
    pipeline = FakePipeline()
    pipeline.cameras = LearnedCameras(cameras(9, 1), cameras(4, 1), focal_mode="shared")
    pipeline.live_view = LiveView(pipeline.cameras, pipeline.datamanager, on_cpu=True)
    with torch.no_grad():
        pipeline.cameras.focal_scales.logarithms.fill_(math.log(2.0))
    pipeline.cameras.assign_eval(cameras(4, 2).camera_to_worlds, 0)
    viewer = viewer_of(pipeline, ViewerConfig())
    watch(viewer)
    viewer.viser_server.scene.add_camera_frustum = draw = Mock(side_effect=viewer.viser_server.scene.add_camera_frustum)
    pipeline.live_view.update()
    drawn = [call.kwargs["fov"] for call in draw.call_args_list]
    assert drawn == pytest.approx([2 * math.atan(30 / 200)] * 4, rel=1e-5)


@pytest.mark.parametrize("on_cpu, expected", [(True, CPU_MAX_RESOLUTION), (False, 512)])
def test_resolution_suits_the_machine(viewer_of, on_cpu, expected):
    assert viewer_of(FakePipeline(on_cpu), ViewerConfig()).control_panel.max_res == expected


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
    # How the browser draws a square frustum: of the proportions of the view, and of the scale's cube in volume.
    half = math.tan(math.radians(fov_deg) / 2)
    depth = frustum_scale(poses) / (half * half / 3) ** (1 / 3)
    assert np.linalg.norm(10 * first_viewpoint(poses, Z)) < 0.98 * (10 * 2.8 - depth)


def test_viser_axes_point_forward_and_down():
    # A camera above the origin that looks down its own -z axis; in OpenCV axes that is +z, and +y is down.
    pose = look_at(torch.tensor([[2.0, 0.0, 0.0]]))
    orientations, positions = viser_pose(pose)
    axes = vtf.SO3(orientations[0]).as_matrix()
    np.testing.assert_allclose(positions, [[20.0, 0.0, 0.0]])
    np.testing.assert_allclose(axes[:, 2], [-1.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(axes[:, 1], [0.0, 0.0, -1.0], atol=1e-6)


# Phase and step


@pytest.mark.parametrize(
    "step, phase, end", [(0, "A", 10), (9, "A", 10), (10, "AB", 16), (11, "AB", 16), (16, "B", 36), (35, "B", 36)]
)
def test_says_phase_step_and_end(step, phase, end):
    status = TrainingStatus(lambda: SCHEDULE)
    status.report(step)
    assert status.text.startswith(f"**Phase {phase}**")
    assert f"Step {step + 1}, phase ends at {end} " in status.text


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
    assert "Phase A**" in status.text and "phase ends at 21" in status.text
