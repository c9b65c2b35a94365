"""The perceptual loss: which one, and what it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from gnerf_ns.noposplat import perceptual_loss
from gnerf_ns.noposplat.perceptual_loss import PerceptualLoss
from gnerf_ns.utils import console


@pytest.fixture(autouse=True)
def nothing_was_said() -> None:
    console.remark.cache_clear()


def test_without_vgg_it_is_ssim_and_says_so_once(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(perceptual_loss, "vgg_file", lambda: tmp_path / "vgg16.pth")
    loss, _ = PerceptualLoss(), PerceptualLoss()
    assert capsys.readouterr().out.count("1 - SSIM in place of LPIPS") == 1
    truth = torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(0))
    rendered = (0.7 * truth + 0.1).requires_grad_()
    value = loss(rendered, truth)
    inner = slice(5, -5)  # scikit-image leaves out the border, where windows are cut
    similarities = [
        structural_similarity(
            *(np.asarray(each.detach().movedim(0, -1)) for each in pair),
            channel_axis=-1,
            gaussian_weights=True,
            use_sample_covariance=False,
            data_range=1.0,
            full=True,
        )[1][inner, inner].mean()
        for pair in zip(rendered, truth, strict=True)
    ]
    assert value.item() == pytest.approx(1.0 - np.mean(similarities), abs=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(loss(rendered, truth)) == value.item()
    value.backward()
    assert rendered.grad is not None and bool(rendered.grad.any())
    assert float(loss(truth, truth)) == pytest.approx(0.0, abs=1e-6)


def test_with_vgg_it_is_lpips(tmp_path: Path, monkeypatch, capsys):
    import torchmetrics.image.lpip as lpip

    class Fake(torch.nn.Module):
        def __init__(self, net_type: str, normalize: bool) -> None:
            super().__init__()
            assert (net_type, normalize) == ("vgg", True)

        @property
        def net(self) -> Any:
            return self

        def forward(self, rendered: torch.Tensor, truth: torch.Tensor, normalize: bool) -> torch.Tensor:
            assert normalize
            return (rendered - truth).abs().mean(dim=(1, 2, 3), keepdim=True)

    (tmp_path / "vgg16.pth").touch()
    monkeypatch.setattr(perceptual_loss, "vgg_file", lambda: tmp_path / "vgg16.pth")
    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", Fake)
    loss = PerceptualLoss()
    assert "LPIPS (VGG)" in capsys.readouterr().out
    assert float(loss(torch.ones(2, 3, 8, 8), torch.tensor([0.5, 1.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8))) == 0.25
