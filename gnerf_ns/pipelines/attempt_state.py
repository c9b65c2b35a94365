"""Everything that an attempt at phase A trains: drawn anew, copied, and put back."""

from __future__ import annotations

from typing import Dict, Protocol, Sequence, runtime_checkable

import torch
from torch import Tensor, nn

OTHERS = ("restarts.", "eval_poses")
"""Beginnings of the names of what attempts do not train."""


@runtime_checkable
class Learner(Protocol):
    """A part that attempts train."""

    def forget(self) -> None:
        """Back to the state of a new run; what is random is drawn anew."""
        ...


class AttemptState:
    """Of a pipeline."""

    def __init__(self, pipeline: nn.Module, learners: Sequence[Learner]) -> None:
        """
        Args:
            pipeline: what has the parts' parameters and buffers, and the poses, in its state.
            learners: those parts. The poses are not among them: they are looked up at the end of phase A.
        """
        self._pipeline, self._learners = pipeline, learners

    def initialise(self, seed: int) -> None:
        """Give all parts the state of a new run."""
        torch.manual_seed(seed)
        for learner in self._learners:
            learner.forget()

    def copied(self) -> Dict[str, Tensor]:
        """A copy of all parts and of the poses."""
        state = self._pipeline.state_dict()
        return {name: value.clone() for name, value in state.items() if not name.startswith(OTHERS)}

    def put_back(self, state: Dict[str, Tensor]) -> None:
        """Go on from such a copy."""
        self._pipeline.load_state_dict(state, strict=False)
