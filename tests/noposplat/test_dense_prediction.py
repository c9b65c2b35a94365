from typing import Tuple

import pytest
import torch
from torch.nn import functional as F

from gnerf_ns.noposplat.dense_prediction import (
    CenterPrediction,
    Fusion,
    ParameterPrediction,
    ResidualConvolutions,
    double_size,
)

SIZES = (16, 8, 8, 12), (4, 6, 8, 10), 8


@pytest.mark.parametrize("side", [8, 16])
@pytest.mark.parametrize("squares", [(1, 1), (2, 3), (3, 2), (4, 4), (5, 1)])
def test_there_is_one_value_for_each_pixel(squares: Tuple[int, int], side: int) -> None:
    height, width = (16 * count for count in squares)
    patches = (height // side, width // side)
    layers = [torch.randn(2, patches[0] * patches[1], width) for width in SIZES[0]]
    assert CenterPrediction(side, *SIZES).fused(layers, patches).shape == (2, 8, height // 2, width // 2)
    assert CenterPrediction(side, *SIZES)(layers, patches).shape == (2, 3, height, width)
    images = torch.randn(2, 3, height, width)
    assert ParameterPrediction(side, *SIZES, 11)(layers, patches, images).shape == (2, 11, height, width)


def test_corners_stay_corners() -> None:
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    doubled = double_size(maps)
    assert doubled.shape == (1, 1, 4, 6)
    torch.testing.assert_close(doubled[0, 0, ::3, ::5], maps[0, 0, :, ::2])
    torch.testing.assert_close(doubled[0, 0, 0], torch.linspace(0.0, 2.0, 6))


def test_fusion_is_the_paper_s() -> None:
    torch.manual_seed(0)
    fusion = Fusion(5).double()
    level, coarser = torch.randn(2, 1, 5, 4, 6, dtype=torch.float64)

    def residual(unit: ResidualConvolutions, maps: torch.Tensor) -> torch.Tensor:
        return maps + unit.conv2(unit.conv1(maps.relu()).relu())

    maps = residual(fusion.resConfUnit2, coarser + residual(fusion.resConfUnit1, level))
    doubled = F.interpolate(maps, size=(8, 12), mode="bilinear", align_corners=True)
    torch.testing.assert_close(fusion(level, coarser), fusion.out_conv(doubled), atol=1e-12, rtol=0)
    doubled = F.interpolate(residual(fusion.resConfUnit2, level), size=(8, 12), mode="bilinear", align_corners=True)
    torch.testing.assert_close(fusion(level), fusion.out_conv(doubled), atol=1e-12, rtol=0)
