"""Cameras in nerfstudio's viewer: thin frusta, colored by how sure their poses are, with thumbnails of their photos."""

from __future__ import annotations

from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import viser
import viser.transforms as vtf
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from torch import Tensor

from gnerf_ns.data.images import area_resize
from gnerf_ns.viewing.confidence_colors import FLAG_COLOR, Rgb
from gnerf_ns.viewing.photo_planes import PlaneBounds, plane_bounds

LINE_WIDTH, FLAG_WIDTH = 1.5, 4.0
"""In pixels of the screen, however near a frustum is. viser's own frusta are of tubes, which hide the view to who
stands inside one."""
FLAG_SIZE = 1.12
"""Of the outline that marks a pose not to be trusted, over that of the photo."""
TICK = 0.15
"""Length of the mark at a frustum's upper side, over half that side's distance from the axis."""
HELD_OUT_SHARE = 0.5
"""Held-out frusta have another rectangle at this share of their depth: their color says how sure they are."""
THUMBNAIL_SIDE = 100
"""Longer side of thumbnails, in pixels: hundreds are sent."""
MOVED_BOUNDS = 0.01
"""A frustum is drawn again if its bounds have changed by so much, as focal lengths are learned."""

Photo = UInt8[Tensor, "height width 4"]


class Look(NamedTuple):
    """How a camera is drawn."""

    color: Rgb
    is_flagged: bool = False


class Frusta:
    """The cameras of one split, for all visitors.

    Attributes:
        photo: an image with straight alpha, by its index; it fills `plane_bounds`.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        folder: str,
        photo: Callable[[int], Photo],
        visit: Callable[[viser.ClientHandle, int], None],
        are_held_out: bool = False,
    ) -> None:
        """
        Args:
            server: draws.
            folder: name of the scene node above them, with a leading slash.
            photo: an image with straight alpha, by its index, which fills `plane_bounds`.
            visit: called with a visitor who has clicked on a thumbnail, and its index.
            are_held_out: whether they are marked as held out.
        """
        self.photo = photo
        self._server, self._folder, self._visit = server, folder, visit
        self._are_held_out = are_held_out
        self._root = server.scene.add_frame(folder, show_axes=False)
        self._drawn: Dict[int, _Drawn] = {}

    @property
    def is_visible(self) -> bool:
        """Whether they are shown."""
        return self._root.visible

    @is_visible.setter
    def is_visible(self, is_visible: bool) -> None:
        self._root.visible = is_visible

    def photo_node(self, index: int) -> str:
        """Name of the scene node of a camera's thumbnail."""
        return f"{self._folder}/camera_{index:05d}/photo"

    def has_drawn(self, index: int) -> bool:
        """Whether a camera has a frustum: of very many, only some do."""
        return index in self._drawn

    def show(self, cameras: Cameras, looks: List[Look], indices: List[int], scale: float) -> List[int]:
        """Draw cameras, or move those that are drawn.

        Args:
            cameras: all of the split.
            looks: of each of them.
            indices: which are drawn; the same at each call.
            scale: their size: see `frustum_depth`.

        Returns:
            Those that were drawn anew; visitors see their thumbnails again.
        """
        orientations, positions = viser_pose(cameras.camera_to_worlds)
        all_bounds, anew = plane_bounds(cameras), []
        for index in indices:
            bounds, drawn = all_bounds[index], self._drawn.get(index)
            if drawn is None or drawn.look != looks[index] or not np.allclose(drawn.bounds, bounds, atol=MOVED_BOUNDS):
                if drawn is not None and drawn.flag is not None:
                    drawn.flag.remove()
                self._drawn[index] = drawn = self._draw(index, bounds, looks[index], scale)
                anew.append(index)
            drawn.node.wxyz, drawn.node.position = orientations[index], positions[index]
        return anew

    def _draw(self, index: int, bounds: PlaneBounds, look: Look, scale: float) -> _Drawn:
        name, depth = f"{self._folder}/camera_{index:05d}", frustum_depth(bounds, scale)
        node = self._add_lines(name, frustum_path(bounds, depth), look.color, LINE_WIDTH)
        if self._are_held_out:
            inner = rectangle(bounds, HELD_OUT_SHARE * depth)
            self._add_lines(f"{name}/held_out", inner, look.color, LINE_WIDTH)
        flag = None
        if look.is_flagged:
            flag = self._add_lines(f"{name}/flag", rectangle(bounds, depth, FLAG_SIZE), FLAG_COLOR, FLAG_WIDTH)
        image = add_photo(self._server.scene, self.photo_node(index), thumbnail(self.photo(index)), bounds, depth)
        image.on_click(lambda event, index=index: self._visit(event.client, index))
        return _Drawn(node, flag, bounds, look)

    def _add_lines(
        self, name: str, points: Float[np.ndarray, "n 3"], color: Rgb, width: float
    ) -> viser.SceneNodeHandle:
        # viser has no polylines; a curve through points that is drawn by its values at them alone is one.
        return self._server.scene.add_spline_catmull_rom(
            name,
            tuple(map(tuple, points.tolist())),
            curve_type="catmullrom",
            line_width=width,
            color=color,
            segments=len(points) - 1,
        )


class _Drawn(NamedTuple):
    node: viser.SceneNodeHandle
    flag: Optional[viser.SceneNodeHandle]
    bounds: PlaneBounds
    look: Look


def frustum_depth(bounds: PlaneBounds, scale: float) -> float:
    """How far a photo stands before its camera: all frusta have the volume of a cube of so many viewer's units."""
    width, height = bounds.size
    return scale / (width * height / 12) ** (1 / 3)


def frustum_path(bounds: PlaneBounds, depth: float) -> Float[np.ndarray, "points 3"]:
    """One line along all edges of a frustum, of which it follows one twice, with a mark at its upper side."""
    middle, _ = bounds.middle
    upper = [(middle, bounds.top), (middle, bounds.top - TICK * bounds.size[1] / 2), (middle, bounds.top)]
    top_left, top_right = (bounds.left, bounds.top), (bounds.right, bounds.top)
    bottom_left, bottom_right = (bounds.left, bounds.bottom), (bounds.right, bounds.bottom)
    path = [top_left, None, top_right, *upper, top_left, bottom_left, None, bottom_right, bottom_left, bottom_right]
    path.append(top_right)
    return np.array([(0.0, 0.0, 0.0) if point is None else (*(depth * np.array(point)), depth) for point in path])


def rectangle(bounds: PlaneBounds, depth: float, size: float = 1.0) -> Float[np.ndarray, "5 3"]:
    """A line around what a camera sees at a depth.

    Args:
        bounds: the camera's.
        depth: distance along its axis.
        size: of the rectangle, over that of what is seen.
    """
    (x, y), (width, height) = bounds.middle, bounds.size
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]
    return depth * np.array([(x + size * u * width / 2, y + size * v * height / 2, 1.0) for u, v in corners])


def add_photo(
    scene: viser.SceneApi,
    name: str,
    photo: Photo,
    bounds: PlaneBounds,
    depth: float,
    camera_to_world: Optional[Float[Tensor, "3 4"]] = None,
    visible: bool = True,
) -> viser.ImageHandle:
    """Put a photo where its camera sees it.

    Args:
        scene: of all visitors, or of one.
        name: of its node.
        photo: fills the bounds.
        bounds: the camera's.
        depth: distance along its axis.
        camera_to_world: the camera's pose; None if the node is a child of the camera's.
        visible: whether it is shown at once.
    """
    width, height = bounds.size
    orientation, position = photo_pose(bounds, depth, camera_to_world)
    return scene.add_image(
        name,
        photo.numpy(),
        render_width=depth * width,
        render_height=depth * height,
        format="png",
        wxyz=orientation,
        position=position,
        visible=visible,
    )


def photo_pose(
    bounds: PlaneBounds, depth: float, camera_to_world: Optional[Float[Tensor, "3 4"]] = None
) -> Tuple[Float[np.ndarray, "4"], Float[np.ndarray, "3"]]:
    """Orientation (wxyz quaternion) and position of a photo's node; arguments as in `add_photo`."""
    orientation, position = vtf.SO3.identity().wxyz, depth * np.array([*bounds.middle, 1.0])
    if camera_to_world is None:
        return orientation, position
    (orientation,), (center,) = viser_pose(camera_to_world[None])
    return orientation, vtf.SO3(orientation).apply(position) + center


def thumbnail(photo: Photo) -> UInt8[Tensor, "small_height small_width 4"]:
    """A photo with at most `THUMBNAIL_SIDE` pixels a side."""
    height, width = photo.shape[:2]
    share = min(1.0, THUMBNAIL_SIDE / max(height, width))
    if share == 1.0:
        return photo
    small = area_resize(
        photo.permute(2, 0, 1)[None].float(), max(1, round(share * height)), max(1, round(share * width))
    )
    return small[0].permute(1, 2, 0).round().byte()


def viser_pose(camera_to_worlds: Float[Tensor, "n 3 4"]) -> Tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, "n 3"]]:
    """Orientations (wxyz quaternions, OpenCV axes) and positions in the viewer's world."""
    poses = camera_to_worlds.detach().cpu().double().numpy()
    rotations = vtf.SO3.from_matrix(poses[..., :3]) @ vtf.SO3.from_x_radians(np.pi)
    return rotations.wxyz, VISER_NERFSTUDIO_SCALE_RATIO * poses[..., 3]


def drawn_indices(count: int, most: Optional[int]) -> List[int]:
    """Which of so many cameras are drawn, evenly spread if they are too many; None for all."""
    return np.linspace(0, count - 1, count if most is None else min(most, count), dtype=int).tolist()
