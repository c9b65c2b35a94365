"""Hands out images whose poses are being estimated, and keeps the true poses out of everybody's reach."""

import struct
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ContextManager, Dict, Iterator, NamedTuple, Optional, Tuple, Type, cast

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.pixel_samplers import PixelSampler
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader, RandIndicesEvalDataloader
from nerfstudio.model_components.ray_generators import RayGenerator
from torch import Tensor

from gnerf_ns.data.dataparser import (
    GROUND_TRUTH_KEY,
    HAS_CALIBRATION_KEY,
    UnposedDataParser,
    UnposedDataParserConfig,
    placeholder_camera_to_worlds,
    unit_scene_box,
)
from gnerf_ns.data.dataset import UnposedDataset, scale_focal
from gnerf_ns.data.image_set import ImageStack, composite, premultiply
from gnerf_ns.utils.errors import InputError

CPU_IMAGE_SIDE = 100
CUDA_IMAGE_SIDE = 800


class PublishedPoses(NamedTuple):
    """What was estimated, on the CPU."""

    train: Float[Tensor, "n 3 4"]
    eval: Optional[Float[Tensor, "m 3 4"]] = None
    train_focal_scales: Optional[Float[Tensor, "n"]] = None
    """How many times longer the focal lengths are than the ones given; None for not at all."""
    eval_focal_scales: Optional[Float[Tensor, "m"]] = None


@dataclass
class UnposedDataManagerConfig(VanillaDataManagerConfig):
    """Reads images without poses, through our own dataparser or any of nerfstudio's."""

    _target: Type = field(default_factory=lambda: UnposedDataManager)
    """Target class to instantiate."""
    dataparser: AnnotatedDataParserUnion = field(default_factory=UnposedDataParserConfig)
    """Specifies the dataparser used to unpack the data."""
    max_image_side: Optional[int] = field(
        default_factory=lambda: CUDA_IMAGE_SIDE if torch.cuda.is_available() else CPU_IMAGE_SIDE
    )
    """Longest side of the images, in pixels; larger ones are area-averaged down. Defaults to 800 with CUDA, to 100
    without. None keeps the files' size."""
    published_poses: Optional[Any] = field(default=None, init=False, repr=False, compare=False)
    """Not an option: the latest estimate, for datamanagers that nerfstudio builds from this same object."""

    def __getstate__(self) -> Dict[str, Any]:
        """What is saved: no poses (they belong to the checkpoint), and folders that hold from anywhere."""
        state = dict(self.__dict__)
        state.pop("published_poses", None)
        if self.data is not None:
            state["data"] = Path(self.data).absolute()
        state["dataparser"] = replace(self.dataparser, data=Path(self.dataparser.data).absolute())
        return state


class UnposedDataManager(VanillaDataManager[UnposedDataset]):
    """Whole small images and pixel batches, at the poses published so far.

    Attributes:
        train_ground_truth: true camera_to_worlds [n, 3, 4] where known, for evaluation only.
        eval_ground_truth: likewise of the held-out images [m, 3, 4].
        has_calibration: whether the focal lengths were measured, and not guessed or read from EXIF.
        train_images: all training images.
        eval_images: all held-out images.

    Raises:
        InputError: the images cannot be used; see the dataparser and the dataset.
    """

    config: UnposedDataManagerConfig
    train_ground_truth: Optional[Float[Tensor, "n 3 4"]]
    eval_ground_truth: Optional[Float[Tensor, "m 3 4"]]
    has_calibration: bool

    def __init__(self, config: UnposedDataManagerConfig, *args: Any, **kwargs: Any):
        try:
            super().__init__(config, *args, **kwargs)
        except PARSER_ERRORS:
            # Only the parser's: a GPU without memory, say, raises some of them later on.
            if "train_dataparser_outputs" in vars(self):
                raise
            with self._parser_errors(config):
                raise
        if config.published_poses is not None:
            self.publish_poses(*config.published_poses)

    def create_train_dataset(self) -> UnposedDataset:
        """The training images, with placeholder poses."""
        outputs, self.train_ground_truth = _set_poses_aside(self.train_dataparser_outputs)
        self.has_calibration = self.train_dataparser_outputs.metadata.get(HAS_CALIBRATION_KEY, True)
        dataset = UnposedDataset(outputs, self.config.max_image_side, scale_factor=self.config.camera_res_scale_factor)
        # nerfstudio's commands read cameras from either place.
        self.train_dataparser_outputs = dataset._dataparser_outputs
        return dataset

    def create_eval_dataset(self) -> UnposedDataset:
        """The held-out images in the same format, with placeholder poses."""
        outputs, self.eval_ground_truth = _set_poses_aside(self._held_out_outputs())
        dataset = UnposedDataset(outputs, image_format=self.train_dataset.image_format)
        self.train_dataset.metadata["num_eval_images"] = len(dataset)
        return dataset

    def _held_out_outputs(self) -> DataparserOutputs:
        """The same held-out images in every mode, since the checkpoint has a pose for each: "test", else "val"."""
        if isinstance(self.dataparser, UnposedDataParser):
            return self.dataparser.get_dataparser_outputs(split="test")
        with self._parser_errors(self.config):
            try:
                return self.dataparser.get_dataparser_outputs(split="test")
            except (OSError, RuntimeError, AssertionError):  # how the stock parsers say that there is no such split
                return self.dataparser.get_dataparser_outputs(split="val")

    @staticmethod
    def _parser_errors(config: UnposedDataManagerConfig) -> ContextManager[None]:
        return one_sentence_for(config.dataparser._target.__name__, config.data or config.dataparser.data)

    @cached_property
    def train_images(self) -> ImageStack:
        """All training images, read at the first use."""
        return ImageStack.from_dataset(self.train_dataset, self.device)

    @cached_property
    def eval_images(self) -> ImageStack:
        """All held-out images, read at the first use."""
        return ImageStack.from_dataset(self.eval_dataset, self.device)

    def setup_train(self) -> None:
        """Sets up what ``next_train`` needs."""
        if self.test_mode == "val":
            _ = self.train_images  # a broken image must end a training before it starts
        self.train_pixel_sampler = self._get_pixel_sampler(self.train_dataset, self.config.train_num_rays_per_batch)
        self.train_ray_generator = RayGenerator(self.train_dataset.cameras.to(self.device))

    def setup_eval(self) -> None:
        """Sets up what ``next_eval`` and the evaluation of whole images need."""
        if self.test_mode == "val":
            _ = self.eval_images
        self.eval_pixel_sampler = self._get_pixel_sampler(self.eval_dataset, self.config.eval_num_rays_per_batch)
        self.eval_ray_generator = RayGenerator(self.eval_dataset.cameras.to(self.device))
        self.fixed_indices_eval_dataloader = FixedIndicesEvalDataloader(self.eval_dataset, device=self.device)
        self.eval_dataloader = RandIndicesEvalDataloader(self.eval_dataset, device=self.device)

    def next_train(self, step: int) -> Tuple[RayBundle, Dict]:
        """Random pixels of all training images, with their rays at the published poses."""
        self.train_count += 1
        return self._pixels(self.train_images, self.train_pixel_sampler, self.train_ray_generator)

    def next_eval(self, step: int) -> Tuple[RayBundle, Dict]:
        """Random pixels of all held-out images, with their rays at the published poses."""
        self.eval_count += 1
        return self._pixels(self.eval_images, self.eval_pixel_sampler, self.eval_ray_generator)

    def _pixels(
        self, images: ImageStack, sampler: Optional[PixelSampler], ray_generator: RayGenerator
    ) -> Tuple[RayBundle, Dict]:
        assert sampler is not None
        batch = sampler.sample({"image": images.pixels, "image_idx": torch.arange(len(images))})
        alpha_color = self.train_dataparser_outputs.alpha_color
        if alpha_color is None:
            batch["image"] = batch["image"].float() / 255
        else:
            batch["image"] = composite(premultiply(batch["image"]), alpha_color, channel_dim=-1)
        return ray_generator(batch["indices"]), batch

    def publish_poses(
        self,
        train: Float[Tensor, "n 3 4"],
        eval: Optional[Float[Tensor, "m 3 4"]] = None,
        train_focal_scales: Optional[Float[Tensor, "n"]] = None,
        eval_focal_scales: Optional[Float[Tensor, "m"]] = None,
    ) -> None:
        """Make estimated poses and focal lengths the ones that every nerfstudio command sees.

        They go to both datasets, the dataparser outputs, the evaluation dataloaders and the ray generators, and on
        the config, from which ``ns-render dataset`` builds further datamanagers.

        Args:
            train: camera_to_worlds of the training images.
            eval: of the held-out images; None leaves theirs alone, focal lengths included.
            train_focal_scales: how many times longer focal lengths are than the given ones; None for not at all.
            eval_focal_scales: likewise of the held-out images.

        Raises:
            InputError: their number differs from that of the images.
        """
        _write_poses(self.train_dataset, train, train_focal_scales, "training")
        if self.train_pixel_sampler is not None:
            self.train_ray_generator.cameras = self.train_dataset.cameras.to(self.device)
        if eval is not None:
            _write_poses(self.eval_dataset, eval, eval_focal_scales, "held-out")
            if self.eval_pixel_sampler is not None:
                for holder in (self.eval_ray_generator, self.fixed_indices_eval_dataloader, self.eval_dataloader):
                    holder.cameras = self.eval_dataset.cameras.to(self.device)
        previous = cast(Optional[PublishedPoses], self.config.published_poses)
        if eval is None and previous is not None:
            eval, eval_focal_scales = previous.eval, previous.eval_focal_scales
        self.config.published_poses = PublishedPoses(
            _copy(train),
            *(None if value is None else _copy(value) for value in (eval, train_focal_scales, eval_focal_scales)),
        )

    def report_rays_per_step(self, num_rays: int) -> None:
        """Have nerfstudio's "Train Rays / Sec" count so many rays to a training step."""
        if self.train_pixel_sampler is not None:
            self.train_pixel_sampler.set_num_rays_per_batch(num_rays)

    def lay_images_over(self, background: Float[Tensor, "3"]) -> None:
        """Choose what shows through transparent pixels wherever nerfstudio's commands want RGB.

        Args:
            background: color in [0, 1]; that of the renderings which the images are compared with.
        """
        for dataset in (self.train_dataset, self.eval_dataset):
            if dataset._dataparser_outputs.alpha_color is not None:
                dataset._dataparser_outputs.alpha_color = background.cpu()


def _copy(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return values.detach().cpu().clone()


def _set_poses_aside(outputs: DataparserOutputs) -> Tuple[DataparserOutputs, Optional[Float[Tensor, "n 3 4"]]]:
    """Outputs that know nothing of the true poses, and those poses.

    A stock parser's poses are its cameras'; it also has a scene box, a transform and perhaps points or depths in the
    frame of those poses. Ours says in its metadata whether it knows any.
    """
    cameras = outputs.cameras
    if GROUND_TRUTH_KEY in outputs.metadata:
        ground_truth = outputs.metadata[GROUND_TRUTH_KEY]
    else:
        ground_truth = cameras.camera_to_worlds.clone() if len(outputs.image_filenames) else None
    blank = cameras[...]
    blank.camera_to_worlds = placeholder_camera_to_worlds(len(outputs.image_filenames))
    return (
        DataparserOutputs(
            image_filenames=outputs.image_filenames,
            cameras=blank,
            alpha_color=outputs.alpha_color,
            scene_box=unit_scene_box(),
            mask_filenames=outputs.mask_filenames,
        ),
        ground_truth,
    )


def _write_poses(
    dataset: UnposedDataset, poses: Float[Tensor, "n 3 4"], focal_scales: Optional[Float[Tensor, "n"]], kind: str
) -> None:
    if len(poses) != len(dataset):
        raise InputError(
            f"There are poses for {len(poses)} {kind} images, but the data has {len(dataset)} of them; "
            "use the data that the model was trained on."
        )
    cameras = dataset.cameras
    cameras.camera_to_worlds = poses.detach().to(cameras.device, torch.float32).clone()
    if focal_scales is not None:
        scaled = scale_focal(dataset.given_cameras, focal_scales)
        cameras.fx, cameras.fy = scaled.fx, scaled.fy


PARSER_ERRORS = (
    OSError,
    AssertionError,
    LookupError,  # an entry is missing
    ValueError,  # broken JSON or text, or no number
    TypeError,
    AttributeError,
    RuntimeError,
    struct.error,  # a cut off COLMAP file
)
"""What the stock parsers raise on files that are missing, broken or incomplete."""


@contextmanager
def one_sentence_for(parser: str, data: Path) -> Iterator[None]:
    """Turn the errors of a stock parser within the block into an `InputError`.

    Args:
        parser: its name.
        data: what it reads.

    Raises:
        InputError: for any of `PARSER_ERRORS`; one raised within goes on unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except PARSER_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or "without a reason"
        raise InputError(
            f"{data} cannot be read by the dataparser {parser} ({type(error).__name__}: {reason}); correct its files, "
            "or choose another dataparser."
        ) from error
