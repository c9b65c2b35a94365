"""nerfstudio's trainer, with checkpoints that survive a kill and runs that end where they were meant to."""

from __future__ import annotations

import math
import os
import shutil
from contextlib import suppress
from typing import cast

from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from gnerf_ns.training.run_folder import RunFolderConfig


class WholeRunTrainer(Trainer):
    """Overrides hooks of `Trainer`: how checkpoints are found and saved, and how a run goes on."""

    config: RunFolderConfig
    _last_step: float = math.inf
    """The step after which a run is done; known once training starts."""

    def _load_checkpoint(self) -> None:
        """Check that there is something to resume from before nerfstudio looks.

        Raises:
            InputError: there is no whole checkpoint where one was said to be, or it does not fit.
        """
        self.config.check_resumed()
        super()._load_checkpoint()

    def train(self) -> None:
        """Train up to `max_num_iterations` in all; nerfstudio would add that many to a resumed run."""
        planned = cast(int, self.config.max_num_iterations)
        self.config.max_num_iterations = max(0, planned - self._start_step)
        self._last_step = planned - 1
        if self.config.max_num_iterations == 0:
            CONSOLE.print(f"Nothing to train: the checkpoint is already at step {self._start_step} of {planned}.")
            self.step = max(0, self._start_step - 1)
            self.save_checkpoint(self.step)
            return
        super().train()

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Save a checkpoint so that a kill at any moment leaves the previous one whole."""
        if not all(bool(value.isfinite().all()) for value in self.pipeline.parameters()):
            CONSOLE.print(f"[yellow]Step {step} is not saved: the model is not finite. The last checkpoint is whole.")
            return
        # The viewer's thread renders, and switches the model's mode, whenever the lock is free.
        with self.train_lock:
            self._save_checkpoint(step)

    def _save_checkpoint(self, step: int) -> None:
        final_folder = self.checkpoint_dir
        self.checkpoint_dir = self.base_dir / "unfinished_checkpoint"
        try:
            super().save_checkpoint(step)
        finally:
            written, self.checkpoint_dir = self.checkpoint_dir, final_folder
        final_folder.mkdir(parents=True, exist_ok=True)
        name = f"step-{step:09d}.ckpt"
        os.replace(written / name, final_folder / name)
        shutil.rmtree(written)
        if self.config.save_only_latest_checkpoint:
            for older in final_folder.glob("step-*.ckpt"):
                if older.name != name:
                    with suppress(PermissionError):  # Windows keeps files that another program has open
                        older.unlink()
