"""nerfstudio's datamanager of many scenes: batches of examples to train on, and held-out scenes to evaluate on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Iterator, List, Literal, Mapping, Optional, Sequence, Tuple, Type, Union

import torch
import tyro
from nerfstudio.data.datamanagers.base_datamanager import DataManager, DataManagerConfig
from torch import distributed
from torch.utils.data import DataLoader, Dataset, IterableDataset

from gnerf_ns.data.dataparser import unit_scene_box
from gnerf_ns.data.images import ImageSize
from gnerf_ns.noposplat.network import SIDE_UNIT
from gnerf_ns.noposplat.view_cameras import nerfstudio_cameras
from gnerf_ns.scenes.evaluation_sets import (
    EvaluationSet,
    drawn_evaluation_set,
    made_evaluation_set,
    read_evaluation_set,
)
from gnerf_ns.scenes.made_scenes import (
    FIRST_TRAINING_SEED,
    NUM_FRAMES,
    NUM_TRAINING_FRAMES,
    MadeKind,
    MadeScenes,
)
from gnerf_ns.scenes.scene_data import SceneGroup, SceneKind, Split, UnusableScene, find_scenes
from gnerf_ns.scenes.view_choice import PAIR_RULES
from gnerf_ns.scenes.view_sampling import (
    Example,
    ExampleConfig,
    TrainingExamples,
    Views,
    make_example,
    stacked,
)
from gnerf_ns.utils.console import remark
from gnerf_ns.utils.errors import InputError

NUM_MADE_SCENES = 100_000
"""To train on, where scenes are made."""

STEPS_PER_MADE_SCENE = 16
"""An example of a batch stays with one of them for so many steps. Drawing two images for each would take as long as
learning from them; so most of the frames are drawn already."""


@dataclass
class NoPoSplatDataManagerConfig(DataManagerConfig):
    """Configuration of `NoPoSplatDataManager`."""

    _target: Type = field(default_factory=lambda: NoPoSplatDataManager)
    """Target class to instantiate."""
    made_scenes: Optional[MadeKind] = None
    """Where no data are given, scenes of this kind are made by seed; None: data have to be given."""
    image_size: Tuple[int, int] = (256, 256)
    """Width and height of the images, in pixels, multiples of 16: others are resized and cropped."""
    num_context: int = 2
    """Images that the network sees of a scene."""
    num_targets: int = 4
    """Images of a scene that it is to render."""
    batch_size: int = 16
    """Scenes of a step, of each process."""
    num_workers: int = 8
    """Processes that read the next examples meanwhile; 0 for none."""
    growth_steps: Optional[int] = None
    """Views of an example are near each other first, and as far apart as they will be from this step on; None for the
    published 9375 steps. Those of made scenes are so from the beginning."""
    point_steps: int = 0
    """In so many first steps nothing is rendered: there is more to learn from the points of made scenes (see
    `beginning`), and quicker."""
    seed: int = 0
    """What scenes and views are drawn by, and dropout."""
    evaluation_views: Optional[Path] = None
    """File that says which views of which held-out scenes are evaluated, of pixelSplat's kind; None: they are drawn."""
    num_eval_scenes: int = 100
    """Held-out scenes that are evaluated, at most, where no file says which."""

    # nerfstudio's: --data says the first; the others have no effect.
    data: tyro.conf.Suppress[Optional[Path]] = None
    masks_on_gpu: tyro.conf.Suppress[bool] = False
    images_on_gpu: tyro.conf.Suppress[bool] = False

    def check_options(self) -> None:
        """Whether numbers are such as make sense.

        Raises:
            InputError: one does not.
        """
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(
                    f"--pipeline.datamanager.{name.replace('_', '-')} is {value}; give a number of {least} or more."
                )
        _ = self.size

    @property
    def size(self) -> ImageSize:
        """Of the images, in pixels.

        Raises:
            InputError: a side is no multiple of 16 pixels.
        """
        size = ImageSize(*self.image_size)
        if min(size) < SIDE_UNIT or any(side % SIDE_UNIT for side in size):
            raise InputError(
                f"--pipeline.datamanager.image-size is {size.width} {size.height}; give multiples of {SIDE_UNIT}."
            )
        return size


_LEAST: Mapping[str, int] = {
    "num_context": 2,
    "num_targets": 1,
    "batch_size": 1,
    "num_workers": 0,
    "growth_steps": 0,
    "point_steps": 0,
    "seed": 0,
    "num_eval_scenes": 1,
}
"""What options must at least be."""


class NoPoSplatDataManager(DataManager):
    """Examples instead of rays.

    Attributes:
        train_dataset: what the viewer shows as cameras: the views of `shown`.
        eval_dataset: the same.
    """

    def __init__(
        self,
        config: NoPoSplatDataManagerConfig,
        device: Union[torch.device, str] = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            config: what is read.
            device: where examples are wanted.
            test_mode: nerfstudio's; without "val", nothing is trained.
            world_size: processes that train together.
            local_rank: which of those of this machine this is.
            kwargs: nerfstudio's, without effect.

        Raises:
            InputError: an option makes no sense, or there are no scenes that can be used.
        """
        config.check_options()
        super().__init__()
        self.config, self.device = config, device
        self._rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
        self._next: Optional[Tuple[int, Iterator[Union[Example, InputError]]]] = None
        self._train_groups = self._groups("train") if test_mode == "val" else []
        self._eval_groups = self._groups("test")
        if self._train_groups:
            self._examples = TrainingExamples(
                self._train_groups, self.example_config, config.batch_size, config.seed, rank=self._rank
            )
        found = next(self.eval_examples(), None)
        if found is None:
            raise InputError(f"None of the held-out scenes of {config.data} can be read; give others.")
        self.shown_scene, self.shown = found
        self.train_dataset = self.eval_dataset = ShownViews(self.shown)  # pyright: ignore[reportAttributeAccessIssue]

    def _groups(self, split: Split) -> Sequence[SceneGroup]:
        config = self.config
        if config.data is not None:
            if config.point_steps and split == "train":
                remark(
                    f"Nothing tells the depths of the scenes in {config.data}: training begins with images at once. "
                    "Weights to begin from (--pipeline.model.checkpoint) help."
                )
            return find_scenes(config.data, split)
        if config.made_scenes is None:
            raise InputError("This method learns from scenes of yours; say where they are by --data FOLDER.")
        seeds = {
            "train": range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + NUM_MADE_SCENES),
            "test": range(min(config.num_eval_scenes, FIRST_TRAINING_SEED)),
        }[split]
        num_frames = NUM_TRAINING_FRAMES if split == "train" else NUM_FRAMES
        return [MadeScenes(seeds, config.made_scenes, config.size, num_frames)]

    @property
    def example_config(self) -> ExampleConfig:
        """What training's examples are like."""
        config = self.config
        rules: Dict[SceneKind, Any] = dict(PAIR_RULES)
        if config.growth_steps is not None:
            rules = {kind: replace(rule, growth_steps=config.growth_steps) for kind, rule in rules.items()}
        made = config.data is None
        return ExampleConfig(
            size=config.size,
            num_context=config.num_context,
            num_targets=config.num_targets,
            rules=rules,
            with_points=made,
            point_steps=config.point_steps if made else 0,
            steps_per_scene=STEPS_PER_MADE_SCENE if made else 1,
        )

    # Training

    def next_train(self, step: int) -> Tuple[Example, Dict[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The examples of a step: the same whatever came before, so that a resumed training goes on as it would have.

        Returns:
            The examples on the device, for the model; and once more as a batch, for its losses.

        Raises:
            InputError: many scenes in a row cannot be used.
        """
        if self._next is None or self._next[0] != step:
            self._examples.first_step = step
            workers = self.config.num_workers
            # Without a generator of its own, it would take a number from the one by which the network drops out.
            examples = ExamplesOrError(self._examples)
            loader = DataLoader(examples, batch_size=None, num_workers=workers, generator=torch.Generator())
            self._next = step, iter(loader)
        _, examples = self._next
        found = next(examples)
        if isinstance(found, InputError):
            raise found
        example = found.to(self.device)
        self._next = step + 1, examples
        return example, {"example": example}

    def dropout_seed(self, step: int) -> int:
        """Of a step, in this process."""
        generator = torch.Generator().manual_seed(self.config.seed)
        offset = int(torch.randint(2**31, (), generator=generator))
        return offset + 1000 * step + self._rank

    # Evaluation

    @cached_property
    def evaluation_set(self) -> EvaluationSet:
        """Which views of which held-out scenes are evaluated.

        Raises:
            InputError: there are none.
        """
        config = self.config
        if config.evaluation_views is not None:
            known = self._group_of_scene
            found = read_evaluation_set(config.evaluation_views)
            chosen: Dict[str, Any] = {key: views for key, views in found.items() if key in known}
        elif config.data is None:
            [scenes] = self._eval_groups
            assert isinstance(scenes, MadeScenes)
            chosen = made_evaluation_set(scenes)
        else:
            chosen = drawn_evaluation_set(self._eval_groups, self.example_config, config.num_eval_scenes)
        if not chosen:
            raise InputError(
                f"None of the held-out scenes of {config.data} can be evaluated"
                + (
                    f" as {config.evaluation_views} says; give the file of these data."
                    if config.evaluation_views
                    else "; give such as have two images that overlap, and a third between them."
                )
            )
        return chosen

    @cached_property
    def _group_of_scene(self) -> Mapping[str, SceneGroup]:
        return {key: group for group in self._eval_groups for key in group.keys}

    def eval_example(self, key: str) -> Example:
        """Views of a held-out scene, a batch of one, on the device.

        Raises:
            UnusableScene: it cannot be read.
        """
        scene, views = self._group_of_scene[key].scene(key), self.evaluation_set[key].views
        return stacked([make_example(scene, views, self.config.size)]).to(self.device)

    def eval_examples(self) -> Iterator[Tuple[str, Example]]:
        """All held-out scenes by their keys; those that cannot be read are passed over, and it is said how many."""
        passed_over: List[str] = []
        for key in self.evaluation_set:
            try:
                yield key, self.eval_example(key)
            except UnusableScene as error:
                passed_over.append(str(error.reason))
        if passed_over:
            remark(f"{len(passed_over)} held-out scenes are passed over, for example for {passed_over[0]}.")

    def next_eval(self, step: int) -> Tuple[Example, Dict[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The example that the viewer shows."""
        return self.shown, {"example": self.shown}

    # What nerfstudio asks for

    def get_train_rays_per_batch(self) -> int:
        """Pixels that a step renders."""
        config = self.config
        return config.batch_size * config.num_targets * config.size.width * config.size.height

    def get_datapath(self) -> Path:
        """Where camera paths are saved."""
        return self.config.data or Path()

    def get_param_groups(self) -> Dict[str, List[torch.nn.Parameter]]:
        """None."""
        return {}


class ExamplesOrError(IterableDataset[Union[Example, InputError]]):
    """Examples, and in place of one that cannot be had the error.

    Raised in a worker, it would come to the user with the worker's traceback in its sentence.
    """

    def __init__(self, examples: TrainingExamples) -> None:
        """
        Args:
            examples: without end.
        """
        self._examples = examples

    def __iter__(self) -> Iterator[Union[Example, InputError]]:
        try:
            yield from self._examples
        except InputError as error:
            yield error


class ShownViews(Dataset[Dict[str, Any]]):
    """The views of one example as what nerfstudio wants of a dataset."""

    def __init__(self, example: Example) -> None:
        """
        Args:
            example: with a batch of one.
        """
        context, target = (
            Views(*(value[0].cpu() for value in vars(views).values())) for views in (example.context, example.target)
        )
        self._views = Views(
            *(torch.cat(both) for both in zip(vars(context).values(), vars(target).values(), strict=True))
        )
        self.cameras = nerfstudio_cameras(self._views)
        self.scene_box, self.metadata = unit_scene_box(), {}

    def __len__(self) -> int:
        return len(self._views.images)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        return {"image": self._views.images[index].permute(1, 2, 0), "image_idx": index}
