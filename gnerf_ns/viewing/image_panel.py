"""A visitor's walk through the images: to each one's camera, where its photo lies over the rendering."""

from __future__ import annotations

import threading
from typing import Callable, List, NamedTuple, Optional, Sequence

import viser
from jaxtyping import Float
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from torch import Tensor

from gnerf_ns.viewing.frusta import Frusta, Photo, add_photo, frustum_depth, photo_pose, thumbnail
from gnerf_ns.viewing.photo_planes import PlaneBounds, browser_view

NOWHERE = "*Next image* brings you to where it was taken; so does a click on a thumbnail."
"""What is said before a visitor has chosen an image."""
PHOTO_NODE = "/photo_over_rendering"
"""Of the scene: not among the frusta, so that it stays when they are hidden, and where an image has none."""


class ShownImage(NamedTuple):
    """An image that a visitor can be brought to."""

    label: str
    """Names it; no two have the same."""
    sentence: str
    """What is known of its pose."""
    frusta: Frusta
    """Among which its camera is,"""
    index: int
    """and its index there."""
    camera_to_world: Float[Tensor, "3 4"]
    """Its pose by now,"""
    bounds: PlaneBounds
    """and the rectangle that it covers."""


class ImagePanel:
    """Buttons, name and slider of one visitor."""

    def __init__(
        self,
        client: viser.ClientHandle,
        images: Callable[[], Sequence[ShownImage]],
        worst_first: Callable[[], Sequence[int]],
        up: Callable[[], Float[Tensor, "3"]],
        scale: float,
        order: float,
    ) -> None:
        """
        Args:
            client: the visitor.
            images: those that there are by now; none is ever taken away, and the order stays.
            worst_first: their order by doubt; empty as long as nothing is known.
            up: what is up in the scene.
            scale: size of frusta: see `frustum_depth`.
            order: where the panel stands among viser's others.
        """
        self._client, self._images, self._worst_first, self._up, self._scale = client, images, worst_first, up, scale
        self._here: Optional[ShownImage] = None
        self._photo: Optional[viser.ImageHandle] = None
        self._lock = threading.RLock()  # viser calls back from several threads
        gui = client.gui
        with gui.add_folder("Images", order=order):
            self._name = gui.add_dropdown("Image", [image.label for image in images()] or [""])
            # Not viser's group of buttons, which does not tell when one is pressed twice.
            following, previous = gui.add_button("Next image"), gui.add_button("Previous image", color="gray")
            self._opacity = gui.add_slider("Photo", 0.0, 1.0, 0.05, 0.0, hint="Lays the photo over the rendering")
            self._is_sorted = gui.add_checkbox("Worst first", False, disabled=not worst_first())
            self._text = gui.add_markdown(NOWHERE)
        self._name.on_update(lambda event: None if event.client is None else self._go_to_label(self._name.value))
        following.on_click(lambda event: self.step(1))
        previous.on_click(lambda event: self.step(-1))
        self._opacity.on_update(lambda event: self.show_photo())
        self._is_sorted.on_update(lambda event: self.refresh())

    def _labels(self) -> List[str]:
        images = self._images()
        return [images[number].label for number in self._order(len(images))]

    def _order(self, count: int) -> Sequence[int]:
        return (self._worst_first() if self._is_sorted.value else ()) or range(count)

    @property
    def is_at_an_image(self) -> bool:
        """Whether the visitor has chosen one."""
        return self._here is not None

    def refresh(self) -> None:
        """Say what has become known, and of images that have joined the others; move the photo with its camera."""
        with self._lock:
            labels = tuple(self._labels())
            if labels and self._name.options != labels:
                self._name.options = labels
            self._is_sorted.disabled = not self._worst_first()
            if self._here is not None:
                label = self._here.label
                self._here = here = next(image for image in self._images() if image.label == label)
                self._name.value, self._text.content = label, here.sentence
                if self._photo is not None:
                    depth = frustum_depth(here.bounds, self._scale)
                    self._photo.wxyz, self._photo.position = photo_pose(here.bounds, depth, here.camera_to_world)

    def step(self, by: int) -> None:
        """Go to the next image, or the one before; from the last to the first."""
        with self._lock:
            images = self._images()
            order = [images[number] for number in self._order(len(images))]
            labels = [image.label for image in order]
            if self._here is not None:
                self.go_to(order[(labels.index(self._here.label) + by) % len(order)])
            elif order:
                self.go_to(order[0 if by > 0 else -1])

    def _go_to_label(self, label: str) -> None:
        self.go_to(next(image for image in self._images() if image.label == label))

    def go_to(self, image: ShownImage) -> None:
        """Stand exactly where an image was taken, turned as its camera was, and see all that it shows."""
        with self._lock, self._client.atomic():
            left, self._here = self._here, image
            if left is not None and left.label != image.label:
                self._show_thumbnail(left, True)
            bounds, camera = image.bounds, self._client.camera
            pose = image.camera_to_world
            view = browser_view(pose, self._up(), bounds, camera.aspect, VISER_NERFSTUDIO_SCALE_RATIO)
            camera.fov, camera.up_direction = view.fov, view.up_direction
            camera.position, camera.look_at = view.position, view.look_at
            self._name.value, self._text.content = image.label, image.sentence
            self.show_photo()

    def show_photo(self) -> None:
        """Put the photo of the visitor's image in the place of its thumbnail, as opaque as they want it."""
        with self._lock:
            if self._here is not None:
                here, opacity = self._here, self._opacity.value
                self._show_thumbnail(here, False)
                photo = here.frusta.photo(here.index).clone()
                photo[..., 3] = (photo[..., 3] * opacity).round().byte()
                self._photo = self._add(PHOTO_NODE, here, photo, here.camera_to_world, opacity > 0.0)

    def _show_thumbnail(self, image: ShownImage, visible: bool) -> None:
        """Show an image's thumbnail to this visitor, or not."""
        if image.frusta.has_drawn(image.index):
            small = thumbnail(image.frusta.photo(image.index))
            handle = self._add(image.frusta.photo_node(image.index), image, small, None, visible)
            # A node that is replaced no longer tells of clicks, which are the business of the one for all visitors.
            handle.on_click(lambda event: None)

    def _add(
        self, node: str, image: ShownImage, photo: Photo, pose: Optional[Float[Tensor, "3 4"]], visible: bool
    ) -> viser.ImageHandle:
        depth = frustum_depth(image.bounds, self._scale)
        return add_photo(self._client.scene, node, photo, image.bounds, depth, pose, visible)
