"""nerfstudio's trainer, with checkpoints that survive a kill and runs that end where they were meant to."""

from __future__ import annotations

import math
import os
import shutil
from abc import abstractmethod
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Iterator, Literal, Optional, cast

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils import comms, writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from gnerf_ns.runs.claimed_folders import give_up
from gnerf_ns.runs.curves import Curves
from gnerf_ns.runs.interrupts import Interrupts, StoppedAfterStep
from gnerf_ns.runs.lines import Line, resume_command, say, shown_path
from gnerf_ns.runs.progress_display import ProgressWriter, Watched, installed_writer
from gnerf_ns.runs.run_folder import RunFolderConfig
from gnerf_ns.utils.checkpoints import latest_checkpoint, step_of
from gnerf_ns.utils.commands import is_training_command
from gnerf_ns.utils.console import quiet_console
from gnerf_ns.utils.disk import is_of_disk, told_by_disk
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.fair_lock import FairLock

FAILED, INTERRUPTED = 1, 130
"""Exit statuses of `ns-train`: of a run that has come to nothing, and of one ended by Ctrl-C, as shells have it."""


class WholeRunTrainer(Trainer):
    """Overrides hooks of `Trainer`: how checkpoints are found and saved, and how a run goes on."""

    config: RunFolderConfig
    _last_step: float = math.inf
    """The step after which a run is done; known once training starts."""
    _is_over: bool = False
    """Whether training is done, and all that is to be said has been."""
    _display: Optional[ProgressWriter] = None
    """What shows the progress of training; None where nothing does."""
    has_failed: bool = False
    """Whether it has come to nothing."""

    def __init__(self, config: RunFolderConfig, *args: Any, **kwargs: Any) -> None:
        if config.machine.device_type == "cpu":  # nerfstudio would scale losses all the same
            config.mixed_precision = False
        with quiet_console():  # nerfstudio says where checkpoints are saved; we do at the end
            super().__init__(config, *args, **kwargs)
        # The viewer takes turns with the steps.
        self.train_lock = FairLock()  # pyright: ignore[reportAttributeAccessIssue]
        self._interrupts = Interrupts()
        self._curves = Curves()

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build everything; a run that cannot begin, or is interrupted before it does, leaves no folder.

        Raises:
            InputError: the input cannot be used, or there is no room.
            KeyboardInterrupt: it was interrupted, in other programs than `ns-train`.
        """
        try:
            self._set_up(test_mode)
        except KeyboardInterrupt:
            if self.world_size > 1:
                raise
            give_up(self.base_dir)
            self._end_interrupted("Stopped before training began; nothing was saved.")
        except InputError:
            give_up(self.base_dir)
            raise
        except OSError as error:
            if not is_of_disk(error):
                raise
            give_up(self.base_dir)
            place = error.filename or self.base_dir
            raise InputError(
                f"{place} cannot be written to ({error.strerror}); make room there, or choose another --output-dir."
            ) from error

    def _set_up(self, test_mode: Literal["test", "val", "inference"]) -> None:
        """What nerfstudio's `setup` does, and more."""
        if not comms.is_main_process():
            CONSOLE.quiet = True  # the first process speaks for all
        super().setup(test_mode)
        self._display = installed_writer(self.config)

    def _load_checkpoint(self) -> None:
        """Check that there is something to resume from before nerfstudio looks.

        Raises:
            InputError: there is no whole checkpoint where one was said to be, or it does not fit.
        """
        self.config.check_resumed()
        if self.config.is_resumed:
            super()._load_checkpoint()
            if self.config.load_dir is not None:
                self._curves = Curves.read(self.config.load_dir.parent).before(self._start_step)

    def train(self) -> None:
        """Train up to `max_num_iterations` in all; nerfstudio would add that many to a resumed run.

        Ctrl-C saves a checkpoint after the present step, and ends `ns-train` with status 130; once more ends it at
        once. A run that has come to nothing ends `ns-train` with status 1.

        Raises:
            InputError: there is no room for what is to be saved.
            KeyboardInterrupt: training was interrupted, in other programs.
        """
        try:
            # Several processes would stop after different steps, and wait for each other.
            with self._interrupts if self.world_size == 1 else nullcontext(), self._explaining_the_disk():
                self._train()
        except KeyboardInterrupt:
            if self.world_size > 1:
                raise
            if not self._is_over:  # else only the viewer was waiting
                self._say_nothing_more()
                self._end_interrupted(f"Stopped; {self._what_is_left()}")
        finally:
            self._say_nothing_more()
        if self.has_failed and is_training_command():
            if self.world_size > 1:
                comms.synchronize()  # the others are done, and wait
            raise SystemExit(FAILED)

    def _train(self) -> None:
        planned = cast(int, self.config.max_num_iterations)
        self.config.max_num_iterations = max(0, planned - self._start_step)
        self._last_step = planned - 1
        if self.config.max_num_iterations == 0:
            CONSOLE.print(f"Nothing to train: the checkpoint is already at step {self._start_step} of {planned}.")
            self.step = max(0, self._start_step - 1)
            self.save_checkpoint(self.step)
            self._say_how_it_ended()
            return
        self._show_progress()
        # After all others: the step is whole by then.
        self.callbacks.append(
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self._interrupts.stop_after)
        )
        try:
            super().train()
        except StoppedAfterStep:
            self._say_nothing_more()
            self.save_checkpoint(self.step)
            raise KeyboardInterrupt from None

    def train_iteration(self, step: int) -> Any:
        """As nerfstudio's; what it returns is kept for curves, too."""
        loss, losses, metrics = super().train_iteration(step)
        self._curves.add(step, loss, metrics)
        return loss, losses, metrics

    @contextmanager
    def _explaining_the_disk(self) -> Iterator[None]:
        """Where nothing can be written any more, says so, and what there is to go on from."""
        try:
            yield
        except OSError as error:
            if not is_of_disk(error):
                raise
            self._say_nothing_more()
            raise InputError(
                f"{error.strerror}: not all of step {self.step} could be saved in {shown_path(self.base_dir)}; "
                f"{self._what_is_left('make room, then ')}"
            ) from error

    def _what_is_left(self, first: str = "") -> str:
        """The last whole checkpoint, and how to go on from it; a run without any leaves no folder.

        Args:
            first: what is to be done before.
        """
        saved = latest_checkpoint(self.config.get_checkpoint_dir())
        if saved is None:
            give_up(self.base_dir)
            return f"there is no checkpoint yet{f'; {first}train anew' if first else ''}."
        last = f"the last whole checkpoint, of step {step_of(saved)}," if first else f"step {step_of(saved)}"
        return f"{last} is saved; {first}go on with: {resume_command(self.config)}"

    def _end_interrupted(self, sentence: str) -> None:
        say([Line(sentence, "yellow", is_copied=True)])
        if is_training_command():  # nerfstudio would print a traceback of a KeyboardInterrupt, and end with status 0
            raise SystemExit(INTERRUPTED)
        raise KeyboardInterrupt

    def _show_progress(self) -> None:
        if self._display is not None and comms.is_main_process():
            self._say_what_begins(self._display)
            self._display.begin(self._watched())

    @abstractmethod
    def _say_what_begins(self, display: ProgressWriter) -> None:
        """The first lines of a run."""

    @abstractmethod
    def _watched(self) -> Watched:
        """What the display is to look at."""

    def _after_train(self) -> None:
        """As nerfstudio's, but with what is to be said at the end in place of its table."""
        self.training_state = "completed"
        self.save_checkpoint(self.step)
        writer.write_out_storage()
        for callback in self.callbacks:
            callback.run_callback_at_location(self.step, TrainingCallbackLocation.AFTER_TRAIN)
        self._say_how_it_ended()
        self._is_over = True
        self._interrupts.hand_back()
        # Others would wait for the first process, and at last give it up.
        if not self.config.viewer.quit_on_train_completion and self.world_size == 1:
            self._train_complete_viewer()

    def _say_nothing_more(self) -> None:
        """Take away what shows the progress of training."""
        if self._display is not None:
            self._display.end()

    @abstractmethod
    def _say_how_it_ended(self) -> None:
        """The last lines of a run, which take the display away; sets `has_failed`."""

    def _say_where_it_stopped(self) -> None:
        """The last lines where the last checkpoint could not be saved, or training was stopped from the viewer."""
        self.has_failed = self.step >= self._last_step
        self._say_nothing_more()
        words, color = ("FAILED", "bold red") if self.has_failed else ("Stopped", "yellow")
        say([Line(f"{words} at step {self.step}; go on with: {resume_command(self.config)}", color, True)])

    def _is_finite(self) -> bool:
        return all(bool(value.isfinite().all()) for value in self.pipeline.parameters())

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Save a checkpoint so that a kill at any moment leaves the previous one whole."""
        if not self._is_finite():
            CONSOLE.print(f"[yellow]Step {step} is not saved: the model is not finite. The last checkpoint is whole.")
            return
        # The viewer's thread renders, and switches the model's mode, whenever the lock is free.
        with self.train_lock:
            self._save_checkpoint(step)

    def _save_checkpoint(self, step: int) -> None:
        final_folder = self.checkpoint_dir
        written = self.checkpoint_dir = self.base_dir / "unfinished_checkpoint"
        name = f"step-{step:09d}.ckpt"
        try:
            written.mkdir(parents=True, exist_ok=True)
            with told_by_disk(written):
                super().save_checkpoint(step)
            final_folder.mkdir(parents=True, exist_ok=True)
            os.replace(written / name, final_folder / name)
            self._curves.write(self.base_dir)
        finally:
            self.checkpoint_dir = final_folder
            shutil.rmtree(written, ignore_errors=True)
        if self.config.save_only_latest_checkpoint:
            for older in final_folder.glob("step-*.ckpt"):
                if older.name != name:
                    with suppress(PermissionError):  # Windows keeps files that another program has open
                        older.unlink()
