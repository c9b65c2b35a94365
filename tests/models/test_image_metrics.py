import math
from pathlib import Path
from typing import Any, List

import pytest
import torch

from gnerf_ns.models import image_metrics
from gnerf_ns.models.image_metrics import ImageMetrics, without_lpips


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> List[str]:
    """What is printed while torch hub's folder is empty and LPIPS cannot be built."""
    import torchmetrics.image.lpip as lpip

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("this would download AlexNet")

    lines: List[str] = []
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "[torch]"))
    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", refuse)
    monkeypatch.setattr(image_metrics.CONSOLE, "print", lambda line, **options: lines.append(line))
    return lines


def test_without_weights_on_disk_lpips_is_left_out_and_that_is_said_once(printed: List[str]):
    metrics = ImageMetrics()
    image = torch.rand(16, 16, 3)
    for _ in range(3):
        assert metrics(image, 1 - image).keys() == {"psnr", "ssim"}
    assert len(printed) == 1 and "LPIPS is left out" in printed[0]


def test_psnr_and_ssim(printed: List[str]):
    metrics = ImageMetrics()
    truth = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0))
    off = metrics((truth * 0 + 0.5), truth * 0 + 0.6)
    assert math.isclose(off["psnr"], 20.0, abs_tol=1e-4)
    assert metrics(truth, truth)["ssim"] == pytest.approx(1.0)
    assert metrics(truth.flip(0), truth)["ssim"] < 0.2


def test_lpips_is_measured_if_its_weights_are_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
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

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    image_metrics.alexnet_file().parent.mkdir(parents=True)
    image_metrics.alexnet_file().touch()
    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", Difference)
    metrics = ImageMetrics()
    for _ in range(2):
        assert metrics(torch.ones(16, 20, 3), torch.zeros(16, 20, 3))["lpips"] == 1.0
    assert len(built) == 1


def test_the_weights_are_looked_for_where_torchvision_puts_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    files = []

    def download(url: str, file: str, *arguments: Any, **options: Any) -> None:
        files.append(Path(file))
        raise InterruptedError

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    from torchvision.models import alexnet

    with pytest.raises(InterruptedError):
        alexnet(weights="DEFAULT")
    assert files == [image_metrics.alexnet_file()]


def test_nobody_asks_for_lpips(printed: List[str]):
    with without_lpips():
        assert "lpips" not in ImageMetrics()(torch.rand(16, 16, 3), torch.rand(16, 16, 3))
    assert not printed


def test_nothing_is_built_before_it_is_asked_for(printed: List[str]):
    ImageMetrics()
    assert not printed
