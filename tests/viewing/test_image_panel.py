"""A visitor's walk through the images: where the photo is put, and what becomes of thumbnails."""

from types import SimpleNamespace
from typing import Any, Dict, List
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
import torch
import viser
import viser.transforms as vtf
from analytic_scene import random_poses

from gnerf_ns.viewing.frusta import Frusta, frustum_depth, viser_pose
from gnerf_ns.viewing.image_panel import PHOTO_NODE, ImagePanel, ShownImage
from gnerf_ns.viewing.photo_planes import PlaneBounds

BOUNDS = PlaneBounds(-0.4, -0.3, 0.5, 0.35)
COUNT, SCALE = 4, 1.0


class Visitor:
    """A panel of images of which only those at even places have frusta, and the images that its visitor is sent."""

    def __init__(self) -> None:
        self.poses = random_poses(COUNT, seed=1)
        self.nodes: Dict[str, Any] = {}
        self.frusta = Mock(spec=Frusta)
        self.frusta.photo = lambda index: torch.full((30, 40, 4), 255, dtype=torch.uint8)
        self.frusta.photo_node.side_effect = "/cameras/camera_{}/photo".format
        self.frusta.has_drawn.side_effect = lambda index: index % 2 == 0
        client = MagicMock(spec=viser.ClientHandle)
        client.camera, client.gui, client.scene = SimpleNamespace(aspect=1.5), MagicMock(), Mock(spec=viser.SceneApi)
        client.scene.add_image.side_effect = self._add_image
        client.gui.add_slider.return_value = SimpleNamespace(value=0.0, on_update=lambda call: None)
        client.gui.add_checkbox.return_value.value = False
        self.opacity = client.gui.add_slider.return_value
        self.panel = ImagePanel(client, self.images, list, lambda: torch.tensor([0.0, 0.0, 1.0]), SCALE, 0.0)

    def images(self) -> List[ShownImage]:
        return [ShownImage(str(i), "", self.frusta, i, self.poses[i], BOUNDS) for i in range(COUNT)]

    def _add_image(self, name: str, image: np.ndarray, **options: Any) -> Any:
        self.nodes[name] = Mock(spec=viser.ImageHandle)
        self.nodes[name].configure_mock(image=image, **options)
        return self.nodes[name]


def corner(node: Any) -> np.ndarray:
    """Upper left one, in the viewer's world."""
    local = np.array([-node.render_width / 2, -node.render_height / 2, 0.0])
    return vtf.SO3(node.wxyz).as_matrix() @ local + node.position


def expected_corner(pose: torch.Tensor) -> np.ndarray:
    (orientation,), (position,) = viser_pose(pose[None])
    local = frustum_depth(BOUNDS, SCALE) * np.array([BOUNDS.left, BOUNDS.top, 1.0])
    return vtf.SO3(orientation).as_matrix() @ local + position


@pytest.mark.parametrize("number", range(COUNT))
def test_the_photo_is_before_its_camera_whether_that_has_a_frustum_or_not(number: int):
    visitor = Visitor()
    visitor.opacity.value = 0.5
    visitor.panel.go_to(visitor.images()[number])
    photo = visitor.nodes[PHOTO_NODE]
    np.testing.assert_allclose(corner(photo), expected_corner(visitor.poses[number]), atol=1e-5)
    assert photo.visible and photo.image[0, 0].tolist() == [255, 255, 255, 128]


def test_the_photo_is_no_part_of_what_hides_with_the_frusta():
    assert PHOTO_NODE.count("/") == 1


def test_thumbnails_are_hidden_at_their_camera_only_and_none_is_made_where_there_is_no_frustum():
    visitor = Visitor()
    for _ in range(3):
        visitor.panel.step(1)
    shown = {name: node.visible for name, node in visitor.nodes.items()}
    assert shown == {PHOTO_NODE: False, "/cameras/camera_0/photo": True, "/cameras/camera_2/photo": False}
    visitor.panel.step(1)
    assert visitor.nodes["/cameras/camera_2/photo"].visible and "/cameras/camera_3/photo" not in visitor.nodes


def test_the_photo_moves_with_its_camera():
    visitor = Visitor()
    visitor.panel.step(1)
    visitor.poses = random_poses(COUNT, seed=2)
    visitor.panel.refresh()
    np.testing.assert_allclose(corner(visitor.nodes[PHOTO_NODE]), expected_corner(visitor.poses[0]), atol=1e-5)
