import numpy as np
import pytest
import torch
from nerfstudio.utils.math import components_from_spherical_harmonics
from scipy.special import factorial, lpmv

from gnerf_ns.cameras.viewing_rays import pixel_rays, real_harmonics


def directions(count: int = 50) -> torch.Tensor:
    torch.manual_seed(0)
    poles = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
    return torch.cat((poles, torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64), dim=-1)))


def test_rays_hit_the_centers_of_their_pixels() -> None:
    intrinsics = torch.tensor([[[0.8, 0.0, 0.45], [0.0, 1.2, 0.55], [0.0, 0.0, 1.0]]], dtype=torch.float64)
    rays = pixel_rays(intrinsics, 3, 4)
    assert rays.shape == (1, 3, 3, 4)
    torch.testing.assert_close(rays.norm(dim=1), torch.ones(1, 3, 4, dtype=torch.float64))
    for row in range(3):
        for column in range(4):
            x, y, z = rays[0, :, row, column].tolist()
            assert z > 0
            # 4 and 3 pixels wide and high: in pixels the focal lengths are 3.2 and 3.6.
            assert 3.2 * x / z + 1.8 == pytest.approx(column + 0.5)
            assert 3.6 * y / z + 1.65 == pytest.approx(row + 0.5)


def test_harmonics_are_scipy_s() -> None:
    vectors = directions()
    found = real_harmonics(vectors, 8)
    x, y, z = vectors.numpy().T
    azimuth = np.arctan2(y, x)
    assert found.shape == (len(vectors), 81)
    for band in range(9):
        for m in range(-band, band + 1):
            order = abs(m)
            norm = ((2 * band + 1) / (4 * np.pi) * factorial(band - order) / factorial(band + order)) ** 0.5
            wave = 1.0 if m == 0 else 2**0.5 * (np.cos(m * azimuth) if m > 0 else np.sin(order * azimuth))
            real = norm * lpmv(order, band, z) * wave  # lpmv has the (-1)^m
            np.testing.assert_allclose(found[:, band * band + band + m], real, atol=1e-12)


def test_they_are_nerfstudio_s_but_for_signs() -> None:
    vectors = directions()
    signs = torch.tensor([(-1.0) ** m for band in range(5) for m in range(-band, band + 1)], dtype=torch.float64)
    theirs = components_from_spherical_harmonics(5, vectors.float())
    torch.testing.assert_close(real_harmonics(vectors, 4), (signs * theirs), atol=1e-5, rtol=0)
