"""The film of the result: an even circle, images of what the model says, a file that plays."""

import math

import numpy as np
import pytest
import torch
from nerfstudio.models.base_model import Model

from gnerf_ns.cameras.pose_prior import object_filling_radius
from gnerf_ns.demo.film import orbit_poses, render_frames
from gnerf_ns.utils.film import FRAMES_PER_SECOND, write_film

FOV = math.radians(40.0)


def test_orbit_is_an_even_circle_that_closes():
    poses = orbit_poses(12, FOV, elevation_deg=30.0, margin=1.1)
    positions = poses[..., 3]
    distance = 1.1 * object_filling_radius(FOV)
    torch.testing.assert_close(positions.norm(dim=-1), torch.full((12,), distance))
    torch.testing.assert_close(positions[:, 2], torch.full((12,), distance / 2.0))
    steps = torch.linalg.vector_norm(positions - positions.roll(1, 0), dim=-1)
    torch.testing.assert_close(steps, steps[:1].expand(12))
    # Cameras look along their own -z, towards the origin.
    torch.testing.assert_close(poses[..., 2], positions / distance)


class DirectionsAsColors(Model):
    """Stands in for a trained model: paints each pixel with its ray's direction."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.device_indicator_param = torch.nn.Parameter(torch.empty(0))

    def get_outputs_for_camera(self, camera):
        rays = camera.generate_rays(camera_indices=0, keep_shape=True)
        return {"rgb": rays.directions * 0.5 + 0.5}


def test_images_are_taken_from_the_poses_in_turn():
    poses = orbit_poses(4, FOV)
    taken = []
    frames = render_frames(DirectionsAsColors(), poses, FOV, side=9, on_frame=lambda: taken.append(1))  # type: ignore[abstract]
    assert frames.shape == (4, 9, 9, 3) and frames.dtype == np.uint8 and len(taken) == 4
    middle = frames[:, 4, 4].astype(float) / 255.0 * 2.0 - 1.0
    np.testing.assert_allclose(middle, -poses[..., 2].numpy(), atol=0.01)
    # The image's upper edge looks higher than its lower one, by the field of view.
    rise = np.arcsin(frames[:, [0, 8], 4, 2].astype(float) / 255.0 * 2.0 - 1.0)
    np.testing.assert_allclose(rise[:, 0] - rise[:, 1], 2.0 * math.atan(8.0 / 9.0 * math.tan(FOV / 2.0)), atol=0.02)


@pytest.mark.filterwarnings("ignore")
def test_film_plays(tmp_path):
    import mediapy

    ramp = np.linspace(0, 255, 6).astype(np.uint8)
    frames = np.broadcast_to(ramp[:, None, None, None], (6, 32, 48, 3)).copy()
    write_film(tmp_path / "new" / "film.mp4", frames)
    film = mediapy.read_video(tmp_path / "new" / "film.mp4")
    assert film.shape == frames.shape and film.metadata is not None and film.metadata.fps == FRAMES_PER_SECOND
    assert np.abs(np.asarray(film).mean(axis=(1, 2, 3)) - ramp).max() < 6.0
