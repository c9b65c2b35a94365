"""Loss and image quality over a run's training steps, kept in its folder: not every run has event files."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import torch

from gnerf_ns.utils.disk import write_whole

CURVES = "curves.json"
"""File in a run's folder."""
STEPS_PER_POINT = 10
"""A run of some thousand steps makes a file of some ten kilobytes; nerfstudio's own scalars are as far apart."""
LOSS_TAG, PSNR_TAG = "Train Loss", "Train Metrics Dict/psnr"
"""What nerfstudio calls them in event files."""
MAX_EVENTS = 3000
"""Of each curve read from event files; TensorBoard's reader drops others at random."""


@dataclass
class Curves:
    """What was measured at some of the training steps; NaN where something was not."""

    steps: List[int] = field(default_factory=list)
    """Rising."""
    loss: List[float] = field(default_factory=list)
    """The sum that is minimized."""
    psnr: List[float] = field(default_factory=list)
    """Of the step's rays, in dB."""

    def add(self, step: int, loss: Any, metrics: Mapping[str, Any]) -> None:
        """Take a finished step, if it is one of those that are kept.

        Args:
            step: later than all before.
            loss: the sum; a number or a tensor.
            metrics: of the step; ``psnr`` may be among them.
        """
        if step % STEPS_PER_POINT == 0:
            self.steps.append(step)
            self.loss.append(_number(loss))
            self.psnr.append(_number(metrics.get("psnr", math.nan)))

    def before(self, step: int) -> Curves:
        """Those of the steps that a training which goes on from a step has behind it."""
        count = sum(each < step for each in self.steps)
        return Curves(self.steps[:count], self.loss[:count], self.psnr[:count])

    def write(self, run: Path) -> None:
        """Write them into a run's folder."""
        columns = {"step": self.steps, "loss": _without_nan(self.loss), "psnr": _without_nan(self.psnr)}
        write_whole(run / CURVES, json.dumps(columns))

    @classmethod
    def read(cls, run: Path) -> Curves:
        """From a run's folder; empty where it has none that can be read."""
        try:
            columns = json.loads((run / CURVES).read_text(encoding="utf-8"))
            loss, psnr = ([_number(value) for value in columns[name]] for name in ("loss", "psnr"))
            steps = [int(step) for step in columns["step"]]
        except (OSError, ValueError, KeyError, TypeError):
            return cls()
        return cls(steps, loss, psnr) if len(steps) == len(loss) == len(psnr) else cls()

    @classmethod
    def of_run(cls, run: Path) -> Curves:
        """Of a finished run of any method: as it kept them, else from nerfstudio's event files; empty without any."""
        kept = cls.read(run)
        return kept if kept.steps or not list(run.glob("events.out.tfevents.*")) else _read_events(run)


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    return float(value.detach()) if isinstance(value, torch.Tensor) else float(value)


def _without_nan(values: List[float]) -> List[Optional[float]]:
    return [value if math.isfinite(value) else None for value in values]


def _read_events(run: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import (  # which takes seconds to import
        COMPRESSED_HISTOGRAMS,
        HISTOGRAMS,
        IMAGES,
        SCALARS,
        TENSORS,
        EventAccumulator,
    )

    kept = {SCALARS: MAX_EVENTS, IMAGES: 1, TENSORS: 1, HISTOGRAMS: 1, COMPRESSED_HISTOGRAMS: 1}
    events = EventAccumulator(str(run), kept).Reload()
    known = {tag: _scalars(events, tag) for tag in (LOSS_TAG, PSNR_TAG) if tag in events.Tags()[SCALARS]}
    loss, psnr = known.get(LOSS_TAG, {}), known.get(PSNR_TAG, {})
    steps = sorted(loss.keys() | psnr.keys())
    return Curves(steps, [loss.get(step, math.nan) for step in steps], [psnr.get(step, math.nan) for step in steps])


def _scalars(events: Any, tag: str) -> Dict[int, float]:
    return {event.step: event.value for event in events.Scalars(tag)}
