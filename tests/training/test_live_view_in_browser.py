"""The live view as a browser shows it: Debian's chromium, by playwright, which must not download one."""

import time
from io import BytesIO
from typing import Any, Callable, Iterator, Tuple

import numpy as np
import pytest
import torch
from analytic_scene import Blobs, model_of, random_poses
from browser import opened_browser
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.viewer import Viewer
from PIL import Image
from skimage.registration import phase_cross_correlation
from watched_pipeline import GivenDataManager, WatchedPipeline

from gnerf_ns.cameras.learned_cameras import LearnedCameras
from gnerf_ns.cameras.rays import CameraDirections, rays_from_poses
from gnerf_ns.data.image_set import ImageStack
from gnerf_ns.data.patch_sampling import image_coords
from gnerf_ns.training.live_view import FOLDERS
from gnerf_ns.training.placement import PoseOrigin
from gnerf_ns.training.pose_status import PoseStatus
from gnerf_ns.viewing.frusta import viser_pose

MAX_WAIT_MS = 120_000
"""On busy machines."""
WIDTH, HEIGHT, FOCAL, CENTER = 120, 90, 130.0, (48.0, 50.0)
"""Of photos, whose principal point is not in the middle."""
COUNT, NUM_HELD_OUT = 5, 2
AXES_SIDE = 70
"""viser draws colored axes into a corner, of so many pixels."""


def photographed(model: Any, poses: Float[torch.Tensor, "n 3 4"]) -> Tuple[Cameras, ImageStack]:
    """Cameras, and what they see over white."""
    given = Cameras(poses, FOCAL, FOCAL, *CENTER, WIDTH, HEIGHT)
    indices, coords = torch.arange(len(poses)), image_coords(HEIGHT, WIDTH).reshape(1, -1, 2)
    rays = rays_from_poses(poses, CameraDirections(given).at(indices, coords.expand(len(poses), -1, -1)), indices)
    with torch.no_grad():
        colors = model.eval().render(rays)["rgb"].clamp(0, 1).view(len(poses), HEIGHT, WIDTH, 3)
    return given, ImageStack((255 * colors).round().byte())


class Visitor:
    """A page with the viewer, and what is on the server's side of it."""

    def __init__(self, page: Any, viewer: Viewer, pipeline: WatchedPipeline) -> None:
        self.page, self.viewer, self.pipeline = page, viewer, pipeline
        page.set_default_timeout(MAX_WAIT_MS)
        page.goto(f"http://127.0.0.1:{viewer.viser_server.get_port()}")
        self.wait_for(lambda: bool(pipeline.live_view._panels))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        for _ in range(MAX_WAIT_MS // 100):
            if condition():
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("never")

    @property
    def camera(self) -> Any:
        (client,) = self.viewer.viser_server.get_clients().values()
        return client.camera

    def screen(self, until: Callable[[np.ndarray], bool] = lambda shown: True) -> np.ndarray:
        """The scene once it no longer changes, and is as it is to become: [height, width, 3], in [0, 255]."""
        (machine,) = self.viewer.render_statemachines.values()
        shown = self._screenshot()
        for _ in range(MAX_WAIT_MS // 500):
            self.page.wait_for_timeout(500)
            before, shown = shown, self._screenshot()
            is_sharp = machine.state == "high" and "264" in self.viewer.stats_markdown.content
            if is_sharp and before.shape == shown.shape and np.array_equal(before, shown) and until(shown):
                return shown
        raise AssertionError("it never becomes so")

    @property
    def window_aspect(self) -> float:
        box = self.page.locator("canvas").last.bounding_box()
        return box["width"] / box["height"]

    def _screenshot(self) -> np.ndarray:
        box = self.page.locator("canvas").last.bounding_box()
        shown = np.asarray(Image.open(BytesIO(self.page.screenshot(clip=box))).convert("RGB")).astype(int)
        shown[-AXES_SIDE:, :AXES_SIDE] = 0
        return shown

    def field(self, label: str) -> Any:
        """The input, or of a slider the number, that stands beside a label."""
        found = self.page.locator(f"label:text-is('{label}')")
        return found.locator("xpath=ancestor::*[3]").locator("input").last

    def lay_photo_over(self, opacity: float, until: Callable[[np.ndarray], bool] = lambda shown: True) -> np.ndarray:
        field = self.field("Photo")
        field.fill(str(opacity))
        field.press("Enter")
        (panel,) = self.pipeline.live_view._panels.values()
        self.wait_for(lambda: panel._opacity.value == opacity)
        return self.screen(until)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tuple[Viewer, WatchedPipeline]]:
    model = model_of(Blobs(num_samples=24))
    poses = random_poses(COUNT + NUM_HELD_OUT, seed=3, elevation_deg=(10.0, 50.0))
    (given, images), (held_out, others) = (photographed(model, part) for part in poses.split([COUNT, NUM_HELD_OUT]))
    cameras = LearnedCameras(given, held_out, "free")
    cameras.assign(torch.arange(COUNT), given.camera_to_worlds)
    cameras.assign_eval(held_out.camera_to_worlds, 0)
    pipeline = WatchedPipeline(model, GivenDataManager(given, held_out, images, others), cameras, on_cpu=True)
    sure, doubted = (
        PoseStatus(PoseOrigin.MATCHES, 0.97, False, 0.1, 0.002, 0.0),
        PoseStatus(PoseOrigin.APPEARANCE, 0.4, True, 0.1, 0.1, 0.0),
    )
    unsure = PoseStatus(PoseOrigin.LOOKED_UP, 0.9, False, 10.0, 0.1, 0.0)
    pipeline.statuses = {"train": [sure, sure, doubted, sure, sure], "eval": [unsure] * NUM_HELD_OUT}
    folder = tmp_path_factory.mktemp("run")
    config = ViewerConfig(websocket_host="127.0.0.1", camera_frustum_scale=2.0)
    viewer = Viewer(config, folder / "log.txt", folder, pipeline)  # type: ignore[arg-type]
    try:
        viewer.init_scene([], "completed")  # type: ignore[arg-type]
        yield viewer, pipeline
    finally:
        viewer.viser_server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as opened:
        yield opened


@pytest.fixture
def visitor(watched: Tuple[Viewer, WatchedPipeline], browser: Any) -> Iterator[Visitor]:
    """Who has just come, and finds everything shown."""
    viewer, pipeline = watched
    pipeline.live_view._held_out_switch.value = True
    viewer.show_images.visible, viewer.hide_images.visible = False, True
    for split in FOLDERS:
        pipeline.live_view._set_visible(split, True)
    page = browser.new_page(viewport={"width": 1000, "height": 620})
    yield Visitor(page, viewer, pipeline)
    page.close()
    for _ in range(MAX_WAIT_MS // 100):
        if not viewer.viser_server.get_clients() and not pipeline.live_view._panels:
            return
        time.sleep(0.1)
    raise AssertionError("the visitor never leaves")


def yellow(screen: np.ndarray) -> int:
    """Pixels of frusta of poses that are quite unsure: nothing in the scene is as yellow."""
    red, green, blue = np.moveaxis(screen, -1, 0)
    return int(((red > 150) & (red - blue > 60) & (green - blue > 60)).sum())


def bright_red(screen: np.ndarray) -> int:
    """Pixels of the outline of an image in doubt: scene and photos are red, too, but darker."""
    return int(((screen[..., 0] > 190) & (screen[..., 1:].max(axis=-1) < 120)).sum())


def test_frusta_tell_confidence_and_each_split_is_hidden_by_its_switch(visitor: Visitor):
    visitor.camera.position, visitor.camera.look_at = (50.0, 20.0, 40.0), (0.0, 0.0, 0.0)  # from outside
    everything = visitor.screen(lambda shown: yellow(shown) > 30)

    visitor.field("Held-out cameras").uncheck()
    train = visitor.screen(lambda shown: yellow(shown) < 0.1 * yellow(everything))
    visitor.page.get_by_role("button", name="Hide Train Cams").click()
    nothing = visitor.screen(lambda shown: bool((np.abs(shown - train).max(axis=-1) > 30).sum() > 300))
    outline = bright_red(everything)
    assert outline > 30 and bright_red(train) > 0.5 * outline and bright_red(nothing) < 0.2 * outline


def test_next_image_puts_the_visitor_exactly_at_its_camera(visitor: Visitor):
    for number, name in ((0, "1: photo_0.png"), (1, "2: photo_1.png")):
        before = visitor.screen()
        visitor.page.get_by_role("button", name="Next image").click()
        expect = visitor.pipeline.poses[number]
        (orientation,), (position,) = viser_pose(expect[None])
        visitor.wait_for(lambda position=position: bool(np.allclose(visitor.camera.position, position, atol=1e-4)))
        visitor.screen(lambda shown, before=before: bool((np.abs(shown - before).max(axis=-1) > 30).mean() > 0.02))
        # As the browser has told it by now.
        np.testing.assert_allclose(visitor.camera.position, position, atol=1e-4)
        assert abs(float(visitor.camera.wxyz @ orientation)) == pytest.approx(1.0, abs=1e-7)
        values = [each.input_value() for each in visitor.page.locator("input").all()]
        assert name in values and visitor.page.get_by_text("97% of the photo explained").count() == 1


def test_previous_and_worst_first(visitor: Visitor):
    (panel,) = visitor.pipeline.live_view._panels.values()
    visitor.field("Worst first").check()
    visitor.wait_for(lambda: panel._name.options[0] == "3: photo_2.png")
    assert panel._name.options[1].endswith("(held out)")
    visitor.page.get_by_role("button", name="Previous image").click()
    visitor.wait_for(lambda: visitor.page.get_by_text("Do not trust").count() == 0)


@pytest.mark.parametrize(("size", "are_frusta_hidden"), [((1250, 480), False), ((800, 900), True)])
def test_the_photo_lies_over_the_rendering_in_windows_of_any_shape(
    visitor: Visitor, size: Tuple[int, int], are_frusta_hidden: bool
):
    if are_frusta_hidden:
        visitor.page.get_by_role("button", name="Hide Train Cams").click()
        visitor.wait_for(lambda: not visitor.pipeline.live_view._frusta["train"].is_visible)
    visitor.page.set_viewport_size({"width": size[0], "height": size[1]})
    visitor.wait_for(lambda: visitor.camera.aspect == pytest.approx(visitor.window_aspect, rel=0.01))
    visitor.page.get_by_role("button", name="Next image").click()
    rendering = visitor.lay_photo_over(0.0)
    photo = visitor.lay_photo_over(1.0, lambda shown: bool((np.abs(shown - rendering).max(axis=-1) > 15).any()))
    half = visitor.lay_photo_over(0.5, lambda shown: not np.array_equal(shown, photo))
    assert np.abs(half - (rendering + photo) / 2).mean() < 3.0
    # Where the photo is, by its camera and the window's field of view.
    height, width = rendering.shape[:2]
    pixels = 0.5 * height / np.tan(visitor.camera.fov / 2) / FOCAL
    left, top = width / 2 - pixels * CENTER[0], height / 2 - pixels * CENTER[1]
    assert min(left, top) > 0
    for across in (0.0, 0.5):
        for down in (0.0, 0.5):
            columns = slice(round(left + across * pixels * WIDTH), round(left + (across + 0.5) * pixels * WIDTH))
            rows = slice(round(top + down * pixels * HEIGHT), round(top + (down + 0.5) * pixels * HEIGHT))
            parts = [255.0 - each[rows, columns].mean(axis=-1) for each in (rendering, photo)]
            if min(part.std() for part in parts) > 5.0:  # something is to be seen there
                unweighted: Any = None  # its stubs know no None
                shift = phase_cross_correlation(*parts, upsample_factor=10, normalization=unweighted)[0]
                assert np.abs(shift).max() < 2.0, (across, down, shift)
