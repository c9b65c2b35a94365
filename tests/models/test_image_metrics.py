import math
from urllib.error import URLError

import pytest
import torch

from gnerf_ns.models import image_metrics
from gnerf_ns.models.image_metrics import ImageMetrics


@pytest.fixture
def offline(monkeypatch) -> list[str]:
    """LPIPS's weights cannot be had; returns what was said."""
    import torchmetrics.image.lpip as lpip

    def refuse(*arguments, **options):
        raise URLError("no route to host")

    said: list[str] = []
    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", refuse)
    monkeypatch.setattr(image_metrics.CONSOLE, "print", said.append)
    return said


def test_offline_lpips_is_left_out_and_that_is_said_once(offline):
    metrics = ImageMetrics()
    image = torch.rand(16, 16, 3)
    for _ in range(3):
        assert metrics(image, 1 - image).keys() == {"psnr", "ssim"}
    assert len(offline) == 1 and "LPIPS is left out" in offline[0]


def test_psnr_and_ssim(offline):
    metrics = ImageMetrics()
    truth = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0))
    off = metrics((truth * 0 + 0.5), truth * 0 + 0.6)
    assert math.isclose(off["psnr"], 20.0, abs_tol=1e-4)
    assert metrics(truth, truth)["ssim"] == pytest.approx(1.0)
    assert metrics(truth.flip(0), truth)["ssim"] < 0.2


def test_lpips_is_given_where_its_weights_are(monkeypatch):
    import torchmetrics.image.lpip as lpip

    built = []

    class Difference(torch.nn.Module):
        def __init__(self, normalize: bool) -> None:
            super().__init__()
            assert normalize  # ours are in [0, 1]
            built.append(self)

        def forward(self, rendered: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
            assert rendered.shape == truth.shape == (1, 3, 16, 20)
            return (rendered - truth).abs().mean()

    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", Difference)
    metrics = ImageMetrics()
    for _ in range(2):
        assert metrics(torch.ones(16, 20, 3), torch.zeros(16, 20, 3))["lpips"] == 1.0
    assert len(built) == 1


def test_nothing_is_built_before_it_is_asked_for(offline):
    ImageMetrics()
    assert not offline
