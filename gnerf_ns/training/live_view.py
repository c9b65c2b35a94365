"""What nerfstudio's viewer shows of a training: frusta that follow the estimated cameras, and where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Dict, Optional, Tuple

import numpy as np
import torch
import viser
import viser.transforms as vtf
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement
from torch import Tensor

from gnerf_ns.cameras.learned_cameras import LearnedCameras
from gnerf_ns.data.datamanager import UnposedDataManager
from gnerf_ns.training.schedule import Schedule

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

CPU_MAX_RESOLUTION = 264
"""Longer side of the viewer's image where there is no GPU, in pixels: about a second per image."""

VIEWPOINT_DISTANCE = 0.75
"""Of the first view, in units of the cameras' distance: inside the shell of frusta, none of which hides the object."""

HELD_OUT_COLOR = (240, 140, 30)


class LiveView(ViewerControl):
    """Keeps a viewer's frusta at the estimated cameras, held-out ones (orange) included.

    nerfstudio finds it as a public attribute of the pipeline and hands it every viewer, that of `ns-viewer` too, which
    is why settings are made here and not in the method's `ViewerConfig`: `ns-viewer` does not use the saved one.
    """

    def __init__(self, cameras: LearnedCameras, datamanager: UnposedDataManager, on_cpu: bool) -> None:
        """
        Args:
            cameras: estimated cameras.
            datamanager: has the intrinsics that were given.
            on_cpu: whether images are rendered without a GPU.
        """
        self._cameras = cameras
        self._datamanager = datamanager
        self._on_cpu = on_cpu
        self._viewer: Optional[Viewer] = None
        self._held_out_frusta: Dict[int, viser.CameraFrustumHandle] = {}

    def _setup(self, viewer: Viewer) -> None:
        """Called by nerfstudio while it builds the viewer, before that draws the training cameras."""
        super()._setup(viewer)
        self._viewer = viewer
        self._held_out_frusta = {}
        if self._on_cpu:
            viewer.control_panel._max_res.value = CPU_MAX_RESOLUTION
        # Empty space is opaque to the viewer: with depth, the background would hide the frusta behind it.
        viewer.control_panel._layer_depth.value = False
        if viewer.config.camera_frustum_scale == ViewerConfig().camera_frustum_scale:  # a speck at our distances
            viewer.config.camera_frustum_scale = frustum_scale(self._cameras.poses("train"))
        viewer.viser_server.on_client_connect(self._welcome)

    def _welcome(self, client: viser.ClientHandle) -> None:
        """Put a new visitor where there is something to see."""
        up = self._cameras.up_direction()[:, 2].detach().cpu()
        position = first_viewpoint(self._cameras.poses("train"), up)
        with client.atomic():
            client.camera.up_direction = up.double().numpy()
            client.camera.position = VISER_NERFSTUDIO_SCALE_RATIO * position
            client.camera.look_at = (0.0, 0.0, 0.0)
        self._move_frusta()

    def update(self) -> None:
        """Move the frusta to the present estimate; does nothing while nobody is watching."""
        if self._viewer is not None and self._viewer.viser_server.get_clients():
            self._move_frusta()

    def _move_frusta(self) -> None:
        assert self._viewer is not None
        train = self._cameras.estimated("train", self._datamanager.train_dataset.given_cameras)
        held_out = None
        if self._cameras.has_eval_poses:
            held_out = self._cameras.estimated("eval", self._datamanager.eval_dataset.given_cameras)
        with self._viewer.viser_server.atomic():
            # The viewer has no frusta before training starts.
            _move(getattr(self._viewer, "camera_handles", {}), train)
            if held_out is not None:
                if not self._held_out_frusta:
                    self._held_out_frusta = self._draw_held_out_frusta(self._viewer, held_out)
                _move(self._held_out_frusta, held_out)

    @staticmethod
    def _draw_held_out_frusta(viewer: Viewer, cameras: Cameras) -> Dict[int, viser.CameraFrustumHandle]:
        return {
            index: viewer.viser_server.scene.add_camera_frustum(
                name=f"/held_out_cameras/camera_{index:05d}",
                fov=float(2 * torch.atan(cameras.height[index] / (2 * cameras.fy[index]))),
                aspect=float(cameras.width[index] / cameras.height[index]),
                scale=viewer.config.camera_frustum_scale,
                color=HELD_OUT_COLOR,
            )
            for index in viewer._pick_drawn_image_idxs(len(cameras))
        }


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


def viser_pose(
    camera_to_worlds: Float[Tensor, "n 3 4"],
) -> Tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, "n 3"]]:
    """Orientations (wxyz quaternions, OpenCV axes) and positions in the viewer's world."""
    poses = camera_to_worlds.cpu().double().numpy()
    rotations = vtf.SO3.from_matrix(poses[..., :3]) @ vtf.SO3.from_x_radians(np.pi)
    return rotations.wxyz, VISER_NERFSTUDIO_SCALE_RATIO * poses[..., 3]


def _move(frusta: Dict[int, viser.CameraFrustumHandle], cameras: Cameras) -> None:
    orientations, positions = viser_pose(cameras.camera_to_worlds)
    for index, frustum in frusta.items():
        frustum.wxyz, frustum.position = orientations[index], positions[index]


PHASES = {
    "A": "renderings at random poses against the images",
    "AB": "the phases A and B take turns",
    "B": "each image at its own pose",
}


class TrainingStatus(ViewerElement[str]):
    """Phase and step; nerfstudio puts it under "Custom Elements", as a public attribute of the pipeline."""

    def __init__(self, schedule: Callable[[], Schedule]) -> None:
        super().__init__("Training status")
        self._schedule = schedule
        self._markdown: Optional[viser.GuiMarkdownHandle] = None
        self.text = "Not trained yet."

    def install(self, viser_server: viser.ViserServer) -> None:
        """Called by nerfstudio inside the panel's folder."""
        self._markdown = viser_server.gui.add_markdown(self.text)

    def report(self, step: int) -> None:
        """Say that a step, counted from 0, is done."""
        schedule = self._schedule()
        plan = schedule.at(step)
        end = {"A": schedule.interleaved_start, "AB": schedule.phase_a_end, "B": schedule.total_steps}[plan.name]
        self.text = (
            f"**Phase {plan.name}**: {PHASES[plan.name]}  \n"
            f"Step {step + 1}, phase ends at {end}  \n"
            f"Images at {plan.image_side} pixels"
        )
        if self._markdown is not None:
            self._markdown.content = self.text
