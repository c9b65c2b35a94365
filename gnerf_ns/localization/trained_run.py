"""A trained run of any method, loaded from its config.yml."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Tuple
from unittest.mock import patch

import torch
import yaml

from gnerf_ns.errors import InputError


class _NoLPIPS(torch.nn.Module):
    """In place of a metric that nobody asks for here."""

    def __init__(self, **options: Any) -> None:
        super().__init__()

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.full((), float("nan"))


@contextmanager
def without_lpips() -> Iterator[None]:
    """Models built meanwhile do not fetch the weights of AlexNet, 230 MB, to measure LPIPS with; theirs is NaN."""
    with patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", _NoLPIPS):
        yield


def load_run(load_config: Path) -> Tuple[Any, Any]:
    """Configuration of a run, as it was saved but for `output_dir`, which is where it lies now; and its pipeline.

    Args:
        load_config: its config.yml; the run may have been moved since.

    Raises:
        InputError: the run cannot be found, or its data cannot.
    """
    # Imports every installed method.
    from nerfstudio.utils.eval_utils import eval_setup

    if not load_config.is_file():
        raise InputError(f"There is no file {load_config}; give --load-config the config.yml of a trained run.")
    run = load_config.resolve().parent
    if not any((run / "nerfstudio_models").glob("step-*.ckpt")):
        raise InputError(f"{run / 'nerfstudio_models'} holds no checkpoint; train the run first.")

    def where_it_lies_now(config: Any) -> Any:
        # Saved paths of nerfstudio's own methods hold only from the folder in which training was started.
        if run.parts[-3:] == (config.experiment_name, config.method_name, config.timestamp):
            config.output_dir = run.parents[2]
        _check_data(config, load_config)
        return config

    with without_lpips():
        _, pipeline, _, _ = eval_setup(load_config, test_mode="inference", update_config_callback=where_it_lies_now)
    # Read again: eval_setup's own is changed for rendering only.
    return where_it_lies_now(yaml.load(load_config.read_text(), Loader=yaml.Loader)), pipeline


def _check_data(config: Any, load_config: Path) -> None:
    data = getattr(config.pipeline.datamanager, "data", None) or config.data
    if data is not None and not Path(data).exists():
        raise InputError(
            f"{data}, on which {load_config} was trained, is not there any more; put it back, or correct the paths "
            "called data in that file."
        )
