"""Radiance fields and camera poses from images without poses: a nerfstudio plugin."""

from pathlib import Path

import numpy as np
import torch

from gnerf_ns.utils.commands import prepare_command

__version__ = "0.1.0"

# nerfstudio's schedulers put numpy floats into checkpoints, and torch >= 2.6 refuses them on load unless they are
# declared safe; without these three, neither resume, eval, render, viewer nor export opens a checkpoint.
_numpy_scalar = np.core.multiarray.scalar  # pyright: ignore[reportAttributeAccessIssue]
torch.serialization.add_safe_globals([_numpy_scalar, np.dtype, type(np.dtype("float64"))])

# Every ns-* command loads its plugins, and with them this package; any other program is left as it is.
prepare_command()

# `method_configs/` lives at the repository root. After a non-editable install, Python started at that root imports
# this very folder instead of the installed package and would not find it; the root then serves as a second place.
_root = Path(__file__).resolve().parent.parent
if (_root / "method_configs" / "__init__.py").is_file() and (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))
