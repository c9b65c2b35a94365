"""A run is where its config.yml is, wherever that was copied or moved to."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Dict, NamedTuple, Optional

import tyro
import yaml

from gnerf_ns.data.grown_dataparser import GrownDataParserConfig
from gnerf_ns.runs.claimed_folders import FolderTakenError, claim, give_up
from gnerf_ns.utils.checkpoints import find_checkpoint, latest_checkpoint, read_checkpoint, step_of
from gnerf_ns.utils.commands import hide_deprecations
from gnerf_ns.utils.console import use_terminal_width
from gnerf_ns.utils.disk import write_whole
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.options import RunOptions

CONFIG = "config.yml"
"""Name of a run's configuration in its folder; nerfstudio's."""
NO_TIMESTAMP = "{timestamp}"
"""nerfstudio's placeholder for the second in which a run starts."""


class Opening(NamedTuple):
    """A config.yml that nerfstudio is reading."""

    path: Path
    """The file."""
    is_to_be_loaded: bool
    """Whether the run's latest checkpoint is to be loaded next: by `eval_setup`, for ns-eval, ns-render, ns-viewer and
    ns-export. Otherwise the configuration is to be trained: `ns-train --load-config`."""


@dataclass
class RunFolderConfig(RunOptions):
    """Has `TrainerConfig` find the run beside its config.yml; nerfstudio looks where the run was first saved.

    If that file was copied alone, without the folder of checkpoints, nerfstudio's way is kept. The latest checkpoint is
    named to nerfstudio, which takes every file in its folder for one, and is checked before anything is built.
    """

    print_config: bool = False
    """Print the whole configuration, which config.yml has in any case."""

    folder_of_runs: tyro.conf.Suppress[Optional[Path]] = None
    """The folder that holds the run's, if it was found beside its config.yml."""

    def __setstate__(self, state: Dict[str, Any]) -> None:
        """Called by PyYAML and `copy`.

        Raises:
            InputError: the run has no whole checkpoint, where one is to be loaded.
        """
        self.__dict__.update(state)
        opening = _find_opening(sys._getframe(1))
        if opening is None:
            return
        hide_deprecations()
        folder = Path(os.path.abspath(opening.path)).parent
        if (folder / self.relative_model_dir).is_dir():
            self.set_folder(folder)
        if opening.is_to_be_loaded:
            checkpoint = find_checkpoint(self.get_checkpoint_dir())
            read_checkpoint(checkpoint)
            self.load_step = step_of(checkpoint)

    def print_to_terminal(self) -> None:
        """Print the configuration if that was asked for; `ns-train` calls it before anything else."""
        hide_deprecations()
        use_terminal_width()
        if self.print_config:
            super().print_to_terminal()

    def set_timestamp(self) -> None:
        """Name the run by the second in which it starts, unless it has a name, and claim its folder.

        Others may start in the same second, or by the same name, and never write to the same folder.

        Raises:
            InputError: the folder cannot be made, or is another run's.
        """
        is_named = self.timestamp != NO_TIMESTAMP
        if not is_named:
            super().set_timestamp()
        elif self.machine.machine_rank > 0:  # of several machines the first one has the folder
            return
        now, attempt = self.timestamp, 1
        while True:
            folder = self.get_base_dir()
            try:
                claim(folder, is_new=not is_named)
                return
            except FileExistsError:
                if is_named:
                    raise InputError(f"{folder} is no folder; choose another --timestamp.") from None
                attempt += 1
                self.timestamp = f"{now}_{attempt}"
            except FolderTakenError:
                raise InputError(
                    f"Another training writes to {folder}; choose another --timestamp, or wait until that one ends."
                ) from None
            except OSError as error:
                raise InputError(f"{folder} cannot be made ({error.strerror}); choose another --output-dir.") from error

    def save_config(self) -> None:
        """Save the configuration, whole or not at all, unless that would bury a finished run.

        Raises:
            InputError: the run's folder already has checkpoints, and this run is not to go on from one; or it cannot be
                written to.
        """
        folder = self.get_base_dir()
        if not self.is_resumed and latest_checkpoint(self.get_checkpoint_dir()) is not None:
            raise InputError(
                f"{folder} already holds a run; choose another --timestamp or --experiment-name, "
                f"or go on from it with --load-dir {self.get_checkpoint_dir()}."
            )
        self.output_dir = Path(os.path.abspath(self.output_dir))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / CONFIG, yaml.dump(self))
        except OSError as error:
            give_up(folder)
            raise InputError(
                f"{folder} cannot be written to ({error.strerror}); make room there, or choose another --output-dir."
            ) from error

    def set_folder(self, folder: Path) -> None:
        """Take a folder, of any name and anywhere, for that of the run.

        If the data are gone, but lie where they would if they had been moved together with the run, or under their name
        beside the run or beside a folder that it is in, they are read from there; checkpoints tell whether they are the
        same.
        """
        before = self.get_base_dir()
        self.folder_of_runs, self.timestamp = folder.parent, folder.name
        datamanager: Any = self.pipeline.datamanager
        if datamanager.data is not None and not datamanager.data.exists():
            places = [parent / datamanager.data.name for parent in folder.parents]
            with suppress(ValueError):  # on Windows, they were on another drive than the run
                places.insert(0, Path(os.path.normpath(folder / os.path.relpath(datamanager.data, before))))
            datamanager.data = next((place for place in places if place.exists()), datamanager.data)
        dataparser = getattr(datamanager, "dataparser", None)
        if isinstance(dataparser, GrownDataParserConfig):
            dataparser.localized = folder / dataparser.localized.name

    def resumed_config(self) -> Optional[Any]:
        """Configuration of the run that a training is to go on from; None if it is new, or if that is not at hand.

        Raises:
            InputError: there is no checkpoint where one was said to be.
        """
        self.check_resumed()
        checkpoints = self.load_dir if self.load_checkpoint is None else self.load_checkpoint.parent
        path = None if checkpoints is None else checkpoints.parent / "config.yml"
        return None if path is None or not path.is_file() else yaml.load(path.read_text("utf8"), Loader=yaml.Loader)

    @property
    def is_resumed(self) -> bool:
        """Whether a training goes on from a checkpoint."""
        return self.load_dir is not None or self.load_checkpoint is not None

    def check_resumed(self) -> None:
        """Name the checkpoint to nerfstudio that a training is to go on from, if it is to.

        Raises:
            InputError: there is none where one was said to be, or it is not whole.
        """
        if self.load_dir is not None:
            checkpoint = find_checkpoint(self.load_dir, self.load_step)
            self.load_step = step_of(checkpoint)
        elif self.load_checkpoint is not None:
            checkpoint = self.load_checkpoint
            if not checkpoint.is_file():
                raise InputError(f"There is no checkpoint {checkpoint}; name one that exists.")
        else:
            return
        read_checkpoint(checkpoint)

    def get_base_dir(self) -> Path:
        """The run's folder."""
        return super().get_base_dir() if self.folder_of_runs is None else self.folder_of_runs / self.timestamp


def _find_opening(frame: Optional[FrameType]) -> Optional[Opening]:
    """The file that is being read, if PyYAML is what calls: nerfstudio hands it the text alone."""
    is_yaml = False
    while frame is not None:
        code = frame.f_code
        is_yaml |= frame.f_globals.get("__name__") == "yaml.constructor"
        if is_yaml and code.co_name == "eval_setup" and code.co_filename.endswith("eval_utils.py"):
            return Opening(frame.f_locals["config_path"], is_to_be_loaded=True)
        if is_yaml and code.co_name == "main" and Path(code.co_filename).parts[-2:] == ("scripts", "train.py"):
            path = frame.f_locals["config"].load_config  # None where it reads the run that it is to go on from
            return None if path is None else Opening(path, is_to_be_loaded=False)
        frame = frame.f_back
    return None
