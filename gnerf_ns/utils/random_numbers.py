"""Where random numbers come from."""

from __future__ import annotations

import torch


def draw_from(seed: int, device: torch.device) -> None:
    """Begin all random numbers of a step anew.

    On a CPU, torch.manual_seed takes half a millisecond, and a list grows with each call: it notes a traceback for GPUs
    that are not in use yet.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
