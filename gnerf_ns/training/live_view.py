"""What nerfstudio's viewer shows of a run: its cameras, where it stands, and each photo over what the field shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np
import torch
import viser
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.models.base_model import Model
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement
from torch import Tensor

from gnerf_ns.cameras.learned_cameras import LearnedCameras, Split
from gnerf_ns.data.datamanager import UnposedDataManager
from gnerf_ns.data.image_set import ImageStack, composite, premultiply
from gnerf_ns.training.pose_status import ORIGIN_WORDS, PoseStatus
from gnerf_ns.training.schedule import Schedule
from gnerf_ns.training.trust import worst_first
from gnerf_ns.viewing.confidence_colors import SCALE_DEG, confidence_color, expected_error_deg
from gnerf_ns.viewing.frusta import Frusta, Look, Photo, drawn_indices
from gnerf_ns.viewing.image_panel import ImagePanel, ShownImage
from gnerf_ns.viewing.photo_planes import has_planes, is_distorted, plane_bounds, undistorted

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

CPU_MAX_RESOLUTION = 264
"""Longer side of the viewer's image where there is no GPU, in pixels: some seconds per image."""

VIEWPOINT_DISTANCE = 0.75
"""Of the first view, in units of the cameras' distance: inside the shell of frusta, none of which hides the object."""

TINY_SIDE = 8
"""Of an image that nobody sees, in pixels."""

FOLDERS: Dict[Split, str] = {"train": "/cameras", "eval": "/held_out_cameras"}
"""Names of scene nodes."""

LEGEND = (
    f"Blue: an error of {SCALE_DEG[0]:g}° is expected; over green to yellow: {SCALE_DEG[1]:g}° and more. Gray: not "
    "known. Outlined in red: not to be trusted. Two rectangles: held out."
)
"""Of the frusta."""


class LiveView(ViewerControl):
    """Shows the estimated cameras to whoever looks, and brings them there.

    nerfstudio finds it as a public attribute of the pipeline and hands it every viewer, that of `ns-viewer` too, which
    is why settings are made here and not in the method's `ViewerConfig`: `ns-viewer` does not use the saved one.
    """

    def __init__(
        self,
        cameras: LearnedCameras,
        datamanager: UnposedDataManager,
        statuses: Callable[[], Mapping[Split, Sequence[PoseStatus]]],
        on_cpu: bool,
    ) -> None:
        """
        Args:
            cameras: estimated cameras.
            datamanager: has the images and the intrinsics that were given.
            statuses: what is known of each pose by now, if anything.
            on_cpu: whether images are rendered without a GPU.
        """
        self._cameras, self._datamanager, self._statuses, self._on_cpu = cameras, datamanager, statuses, on_cpu
        self._viewer: Optional[Viewer] = None
        self._frusta: Dict[Split, Frusta] = {}
        self._panels: Dict[int, ImagePanel] = {}
        self._step = 0

    def _setup(self, viewer: Viewer) -> None:
        """Called by nerfstudio while it builds the viewer, before that draws the training cameras."""
        super()._setup(viewer)
        self._viewer, self._panels = viewer, {}
        # No public setter; that nerfstudio has them is tested.
        if self._on_cpu:
            viewer.control_panel._max_res.value = CPU_MAX_RESOLUTION
        # Empty space is opaque to the viewer: with depth, the background would hide the frusta behind it.
        viewer.control_panel._layer_depth.value = False
        config, server = viewer.config, viewer.viser_server
        if config.camera_frustum_scale == ViewerConfig().camera_frustum_scale:  # a speck at our distances
            config.camera_frustum_scale = frustum_scale(self._cameras.poses("train"))
        self._most_drawn = None if config.max_num_display_images < 0 else config.max_num_display_images
        config.max_num_display_images = 0  # nerfstudio's own frusta would stand in ours
        self._frusta = {
            split: Frusta(server, folder, self._photos(split), self._visits(split), are_held_out=split == "eval")
            for split, folder in FOLDERS.items()
        }
        viewer.hide_images.on_click(lambda event: self._set_visible("train", False))
        viewer.show_images.on_click(lambda event: self._set_visible("train", True))
        order = viewer.show_images.order
        self._held_out_switch = server.gui.add_checkbox("Held-out cameras", True, order=order + 0.5, visible=False)
        self._held_out_switch.on_update(lambda event: self._set_visible("eval", self._held_out_switch.value))
        with server.gui.add_folder("Colors", order=viewer.stats_markdown.order + 0.6, expand_by_default=False):
            server.gui.add_markdown(LEGEND)
        server.on_client_connect(self._welcome)
        server.on_client_disconnect(self._see_off)
        self._show()
        self.report(self._step)
        # The first rendering loads and compiles what it needs, which takes seconds, and many under nerfstudio's trace.
        render_tiny_image(viewer.get_model(), self._cameras.poses("train")[:1])

    def _set_visible(self, split: Split, is_visible: bool) -> None:
        self._frusta[split].is_visible = is_visible

    def _welcome(self, client: viser.ClientHandle) -> None:
        """Put a new visitor where there is something to see."""
        assert self._viewer is not None
        up = self._up()
        position = first_viewpoint(self._cameras.poses("train"), up)
        with client.atomic():
            client.camera.up_direction = up.double().numpy()
            client.camera.position = VISER_NERFSTUDIO_SCALE_RATIO * position
            client.camera.look_at = (0.0, 0.0, 0.0)
        self._show()
        order = self._viewer.stats_markdown.order + 0.3
        scale = self._viewer.config.camera_frustum_scale
        if has_planes(self._datamanager.train_dataset.given_cameras):
            panel = ImagePanel(client, self._shown_images, self._worst_first, self._up, scale, order)
            self._panels[client.client_id] = panel

    def _see_off(self, client: viser.ClientHandle) -> None:
        self._panels.pop(client.client_id, None)

    def _up(self) -> Float[Tensor, "3"]:
        return self._cameras.up_direction()[:, 2].detach().cpu()

    def report(self, step: int) -> None:
        """Say which step, counted from 0, is done: nerfstudio's viewer says so seldom, and `ns-viewer` not at all."""
        self._step = step
        if self._viewer is not None:
            self._viewer.update_step(step)

    def update(self) -> None:
        """Move the frusta to the present estimate; does nothing while nobody is watching."""
        if self._viewer is not None and self._viewer.viser_server.get_clients():
            self._show()

    def _show(self) -> None:
        assert self._viewer is not None
        scale, redrawn = self._viewer.config.camera_frustum_scale, False
        with self._viewer.viser_server.atomic():
            for split, cameras in self._estimated().items():
                looks = [look_of(status) for status in self._statuses_of(split, len(cameras))]
                indices = drawn_indices(len(cameras), self._most_drawn)
                redrawn |= bool(self._frusta[split].show(cameras, looks, indices, scale))
                self._held_out_switch.visible = split == "eval"
        for panel in list(self._panels.values()):
            if redrawn or panel.is_at_an_image:
                panel.refresh()
            if redrawn:
                panel.show_photo()

    def _estimated(self) -> Dict[Split, Cameras]:
        """Held-out ones once their poses have been estimated."""
        train, held_out = self._datamanager.train_dataset, self._datamanager.eval_dataset
        found: Dict[Split, Cameras] = {"train": self._cameras.estimated("train", train.given_cameras).to("cpu")}
        if self._cameras.has_eval_poses and len(held_out.given_cameras) > 0:
            found["eval"] = self._cameras.estimated("eval", held_out.given_cameras).to("cpu")
        return found

    def _statuses_of(self, split: Split, count: int) -> Sequence[Optional[PoseStatus]]:
        return self._statuses().get(split) or [None] * count

    def _shown_images(self) -> List[ShownImage]:
        """Training images, and then those held out."""
        shown = []
        for split, cameras in self._estimated().items():
            dataset = self._datamanager.train_dataset if split == "train" else self._datamanager.eval_dataset
            remark = " (held out)" if split == "eval" else ""
            known = zip(self._statuses_of(split, len(cameras)), plane_bounds(cameras), strict=True)
            for index, (status, bounds) in enumerate(known):
                label = f"{index + 1}: {dataset.image_filenames[index].name}{remark}"
                pose = cameras.camera_to_worlds[index]
                shown.append(ShownImage(label, sentence_of(status), self._frusta[split], index, pose, bounds))
        return shown

    def _worst_first(self) -> List[int]:
        statuses = self._statuses()
        return worst_first([*statuses.get("train", ()), *statuses.get("eval", ())])

    def _photos(self, split: Split) -> Callable[[int], Photo]:
        """Images as they are trained on."""

        def photo(index: int) -> Photo:
            datamanager = self._datamanager
            images, dataset = datamanager.train_images, datamanager.train_dataset
            if split == "eval":
                images, dataset = datamanager.eval_images, datamanager.eval_dataset
            whole = photo_of(images, index, datamanager.train_dataparser_outputs.alpha_color)
            if not is_distorted(dataset.given_cameras, index):
                return whole
            cameras = self._cameras.estimated(split, dataset.given_cameras).to("cpu")
            return undistorted(whole, cameras, index, plane_bounds(cameras)[index])

        return photo

    def _visits(self, split: Split) -> Callable[[viser.ClientHandle, int], None]:
        def visit(client: viser.ClientHandle, index: int) -> None:
            panel = self._panels.get(client.client_id)
            if panel is not None:
                frusta = self._frusta[split]
                panel.go_to(next(each for each in self._shown_images() if (each.frusta, each.index) == (frusta, index)))

        return visit


@torch.no_grad()
def render_tiny_image(model: Model, camera_to_world: Float[Tensor, "1 3 4"]) -> None:
    """Have a model render what the viewer has it render, and leave it as it was."""
    side, was_training = TINY_SIDE, model.training
    camera = Cameras(camera_to_world, fx=float(side), fy=float(side), cx=side / 2, cy=side / 2, width=side, height=side)
    model.eval()
    model.get_outputs_for_camera(camera.to(model.device))
    model.train(was_training)


def photo_of(images: ImageStack, index: int, background: Optional[Float[Tensor, "3"]]) -> Photo:
    """An image with straight alpha, transparent where it is padded.

    Args:
        images: all of them.
        index: which.
        background: what transparent images are laid over; None leaves them as they are.
    """
    pixels = images.pixels[index].cpu()
    if pixels.shape[-1] == 4 and background is not None:
        pixels = (255 * composite(premultiply(pixels), background.cpu(), channel_dim=-1)).round().byte()
    if pixels.shape[-1] == 3:
        pixels = torch.cat([pixels, torch.full_like(pixels[..., :1], 255)], dim=-1)
    inside = images.validity(images.height, images.width, torch.tensor([index]))
    if inside is not None:
        pixels[..., 3] = (pixels[..., 3] * inside[0].cpu()).round().byte()
    return pixels


def look_of(status: Optional[PoseStatus]) -> Look:
    """How a camera is drawn, by what is known of its pose."""
    if status is None:
        return Look(confidence_color(None))
    error = expected_error_deg(status.rotation_sigma_deg, status.alternative_probability)
    return Look(confidence_color(error), status.is_flagged)


def sentence_of(status: Optional[PoseStatus]) -> str:
    """What is known of a pose, in words."""
    if status is None:
        return "How sure its pose is, the end of training tells."
    parts = [f"Pose from {ORIGIN_WORDS[status.origin]}"]
    if not math.isnan(status.rotation_sigma_deg):
        sigma = f"± {status.rotation_sigma_deg:.2g}°"
        if not math.isnan(status.translation_sigma_relative):
            sigma += f" and {100 * status.translation_sigma_relative:.2g} % of the cameras' distance"
        parts.append(sigma)
    if not math.isnan(status.alternative_probability):
        parts.append(f"another place with a probability of {status.alternative_probability:.0%}")
    parts.append(f"{status.explained:.0%} of the photo explained")
    return ("**Do not trust.** " if status.is_flagged else "") + "; ".join(parts) + "."


def frustum_scale(camera_to_worlds: Float[Tensor, "n 3 4"]) -> float:
    """Size of frusta, in the viewer's units, at which they are well visible and do not yet hide each other.

    A frustum of size 1 is 3 to 5 units deep, the more the narrower its view: few cameras must not get frusta that
    reach the first viewpoint.
    """
    distance = torch.linalg.vector_norm(camera_to_worlds[..., 3], dim=-1).median()
    return VISER_NERFSTUDIO_SCALE_RATIO * float(distance) * min(0.04, 0.45 / len(camera_to_worlds) ** 0.5)


def first_viewpoint(camera_to_worlds: Float[Tensor, "n 3 4"], up: Float[Tensor, "3"]) -> Float[np.ndarray, "3"]:
    """Position, in scene units, of the camera of median height: it looks at the object from a usual side."""
    positions = camera_to_worlds[..., 3].cpu()
    return VIEWPOINT_DISTANCE * positions[(positions @ up).argsort()[len(positions) // 2]].double().numpy()


PHASES = {
    "A": "renderings at random poses against the images",
    "AB": "the phases A and B take turns",
    "B": "each image at its own pose",
}


class TrainingStatus(ViewerElement[str]):
    """Phase; nerfstudio puts it under "Custom Elements", as a public attribute of the pipeline."""

    def __init__(self, schedule: Callable[[], Schedule]) -> None:
        super().__init__("Training status")
        self._schedule = schedule
        self._markdown: Optional[viser.GuiMarkdownHandle] = None
        self.text = "Not trained yet."

    def install(self, viser_server: viser.ViserServer) -> None:
        """Called by nerfstudio inside the panel's folder."""
        self._markdown = viser_server.gui.add_markdown(self.text)

    def report(self, step: int) -> None:
        """Say what a step, counted from 0, is part of. Which it is, stands in nerfstudio's own line above."""
        schedule = self._schedule()
        plan = schedule.at(step)
        end = {"A": schedule.interleaved_start, "AB": schedule.phase_a_end, "B": schedule.total_steps}[plan.name]
        self.text = f"**Phase {plan.name}** (to step {end}): {PHASES[plan.name]}  \nImages at {plan.image_side} pixels"
        if self._markdown is not None:
            self._markdown.content = self.text
