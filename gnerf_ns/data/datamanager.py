"""nerfstudio's datamanager for images whose poses are being estimated; true poses, if known, are set aside."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import (
    Any,
    ContextManager,
    Dict,
    List,
    Literal,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
    cast,
)

import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.pixel_samplers import PixelSampler, PixelSamplerConfig
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader, RandIndicesEvalDataloader
from nerfstudio.model_components.ray_generators import RayGenerator
from torch import Tensor

from gnerf_ns.data.content import check_content
from gnerf_ns.data.dataparser import HAS_CALIBRATION_KEY, UnposedDataParser, UnposedDataParserConfig
from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.data.image_set import ImageStack, composite, premultiply
from gnerf_ns.data.intrinsics import Intrinsics
from gnerf_ns.data.stock_parsers import PARSER_ERRORS, one_sentence_for, set_poses_aside
from gnerf_ns.utils.console import remark
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.run_images import ImageSource, RunImages

CPU_IMAGE_SIDE = 100
"""Longest side of images of an object alone where there is no GPU, in pixels."""
CPU_OBJECT_SIDE = 80
"""Where the object would typically have fewer pixels, images with alpha are larger; up to `CPU_ROOM_SIDE`."""
CPU_ROOM_SIDE = 240
"""Longest side of images with their background, of which the object is but a part."""
CUDA_IMAGE_SIDE = 800
"""Longest side of images with a GPU."""


class PublishedCameras(NamedTuple):
    """Estimated cameras, on the CPU, for datamanagers of the same images."""

    images: RunImages
    """Whose cameras they are."""
    train: Cameras
    eval: Optional[Cameras] = None


@dataclass
class UnposedDataManagerConfig(VanillaDataManagerConfig):
    """Reads images without poses, through our own dataparser or any of nerfstudio's."""

    _target: Type = field(default_factory=lambda: UnposedDataManager)
    """Target class to instantiate."""
    dataparser: AnnotatedDataParserUnion = field(default_factory=UnposedDataParserConfig)
    """Specifies the dataparser used to unpack the data."""
    # Larger images are area-averaged down, for an object alone to 100 pixels, or as many as give the object 80.
    max_image_side: Union[Literal["auto"], int, None] = "auto"
    """In pixels. auto: 800 with CUDA, else 240, or less for an object alone."""
    train_num_rays_per_batch: tyro.conf.Suppress[int] = 1024
    """Refused if set, since it would have no effect: see --pipeline.photometric.rays-per-step."""

    # nerfstudio's: --data says the first; batches are drawn by our objectives, for which the others have no effect.
    data: tyro.conf.Suppress[Optional[Path]] = None
    camera_res_scale_factor: tyro.conf.Suppress[float] = 1.0
    eval_num_rays_per_batch: tyro.conf.Suppress[int] = 1024
    train_num_images_to_sample_from: tyro.conf.Suppress[int] = -1
    train_num_times_to_repeat_images: tyro.conf.Suppress[int] = -1
    eval_num_images_to_sample_from: tyro.conf.Suppress[int] = -1
    eval_num_times_to_repeat_images: tyro.conf.Suppress[int] = -1
    eval_image_indices: tyro.conf.Suppress[Optional[Tuple[int, ...]]] = (0,)
    images_on_gpu: tyro.conf.Suppress[bool] = False
    masks_on_gpu: tyro.conf.Suppress[bool] = False
    patch_size: tyro.conf.Suppress[int] = 1
    pixel_sampler: tyro.conf.Suppress[PixelSamplerConfig] = field(default_factory=PixelSamplerConfig)

    published_cameras: tyro.conf.Suppress[Optional[PublishedCameras]] = field(
        default=None, init=False, repr=False, compare=False
    )
    """The latest estimate: `ns-render dataset` builds datamanagers from this object that see no checkpoint."""

    def __getstate__(self) -> Dict[str, Any]:
        """What is saved: no poses (they belong to the checkpoint), and folders that hold from anywhere."""
        state = dict(self.__dict__)
        state.pop("published_cameras", None)
        if self.data is not None:
            state["data"] = Path(self.data).absolute()
        state["pixel_sampler"] = PixelSamplerConfig()  # nerfstudio keeps the cameras' type in it
        state["dataparser"] = replace(self.dataparser, data=Path(self.dataparser.data).absolute())
        return state

    def check_options(self) -> None:
        """Whether no option is set that would have no effect.

        Raises:
            InputError: one is.
        """
        default = type(self)()
        for name in WITHOUT_EFFECT:
            if getattr(self, name) != getattr(default, name):
                raise InputError(
                    f"--pipeline.datamanager.{name.replace('_', '-')} has no effect on this method; leave it out (how "
                    "many rays a training step renders is set by --pipeline.photometric.rays-per-step)."
                )


WITHOUT_EFFECT = (
    "train_num_rays_per_batch",
    "train_num_images_to_sample_from",
    "train_num_times_to_repeat_images",
    "eval_num_images_to_sample_from",
    "eval_num_times_to_repeat_images",
    "eval_image_indices",
    "images_on_gpu",
    "masks_on_gpu",
    "patch_size",
)
"""Options of nerfstudio's datamanager."""


class UnposedDataManager(VanillaDataManager[UnposedDataset]):
    """Whole small images and pixel batches, at the poses published so far.

    Its state in a checkpoint is its `RunImages`.

    Attributes:
        train_ground_truth: camera_to_worlds [n, 3, 4] that came with the images, NaN for none; for evaluation, and for
            `--pipeline.poses` where that asks for them.
        eval_ground_truth: likewise of the held-out images [m, 3, 4].
        has_calibration: whether the focal lengths were measured, and not guessed or read from EXIF.
        train_images: all training images.
        eval_images: all held-out images.

    Raises:
        InputError: the images cannot be used (see the dataparser and the dataset), or are not those whose poses were
            published.
    """

    config: UnposedDataManagerConfig
    train_ground_truth: Optional[Float[Tensor, "n 3 4"]]
    eval_ground_truth: Optional[Float[Tensor, "m 3 4"]]
    has_calibration: bool
    _suitable_side: Optional[int] = None
    """What `auto` has come to on a CPU."""

    def __init__(self, config: UnposedDataManagerConfig, *args: Any, **kwargs: Any):
        config.check_options()
        try:
            super().__init__(config, *args, **kwargs)
        except PARSER_ERRORS:
            # Only the parser's: a GPU without memory, say, raises some of them later on.
            if "train_dataparser_outputs" in vars(self):
                raise
            with self._parser_errors(config):
                raise
        published = config.published_cameras
        if published is not None:
            published.images.check_training_images(self.run_images)
            self.publish_cameras(published.train, published.eval)
            if len(self.eval_dataset) == 0:
                self.eval_dataset = self.train_dataset

    def create_train_dataset(self) -> UnposedDataset:
        """The training images, with placeholder poses."""
        outputs, self.train_ground_truth = set_poses_aside(self.train_dataparser_outputs)
        self.has_calibration = self.train_dataparser_outputs.metadata.get(HAS_CALIBRATION_KEY, True)
        dataset = self._at_suitable_size(outputs)
        _say_changes(dataset, "To train on")
        # nerfstudio's commands read cameras from either place.
        self.train_dataparser_outputs = dataset._dataparser_outputs
        return dataset

    def _at_suitable_size(self, outputs: DataparserOutputs) -> UnposedDataset:
        """Where it depends on what the images show, the config keeps what was found."""
        config = self.config
        side = config.max_image_side
        if side == "auto" and torch.device(self.device).type == "cuda":
            side = CUDA_IMAGE_SIDE
        if side != "auto":
            config.max_image_side = side
            return UnposedDataset(outputs, side, scale_factor=config.camera_res_scale_factor)
        small = UnposedDataset(outputs, CPU_IMAGE_SIDE, scale_factor=config.camera_res_scale_factor)
        images = ImageStack.from_dataset(small, self.device)
        side = config.max_image_side = self._suitable_side = side_on_cpu(images)
        if side == CPU_IMAGE_SIDE:
            self.train_images = images
            return small
        return UnposedDataset(outputs, side, scale_factor=config.camera_res_scale_factor)

    def detail(self, most: Optional[int]) -> float:
        """How many times as long as a CPU would have them by itself the training images are, in pixels.

        Args:
            most: no more of their longer side is trained on; None for all of it.
        """
        side = max(self.train_images.height, self.train_images.width)
        return min(side, most or side) / (self._suitable_side or side_on_cpu(self.train_images))

    def create_eval_dataset(self) -> UnposedDataset:
        """The held-out images in the same format, with placeholder poses."""
        outputs, self.eval_ground_truth = set_poses_aside(self._held_out_outputs())
        dataset = UnposedDataset(outputs, image_format=self.train_dataset.image_format)
        _say_changes(dataset, "Held out")
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
    def run_images(self) -> RunImages:
        """What the images are known by in checkpoints; their files are read at the first use."""
        data = Path(self.config.data or self.config.dataparser.data)
        return RunImages.read(_sources(self.train_dataset), _sources(self.eval_dataset), data)

    def get_extra_state(self) -> Dict[str, Any]:
        """For checkpoints: which images they are of."""
        return self.run_images.to_state()

    def set_extra_state(self, state: Dict[str, Any]) -> None:
        """Nothing: the images are those of the data; `fitting_state` compares."""

    @cached_property
    def train_images(self) -> ImageStack:
        """All training images, read at the first use."""
        return ImageStack.from_dataset(self.train_dataset, self.device)

    @cached_property
    def eval_images(self) -> ImageStack:
        """All held-out images, read at the first use."""
        return ImageStack.from_dataset(self.eval_dataset, self.device)

    def _read_files(self) -> None:
        """Read everything before a training starts: what cannot be used must end it now, and files may change later."""
        train, held_out = self.train_dataset, self.eval_dataset
        check_content(
            [self.train_images, self.eval_images],
            [*train.image_filenames, *held_out.image_filenames],
            [*(train.mask_filenames or []), *(held_out.mask_filenames or [])] or None,
        )
        _ = self.run_images

    def setup_train(self) -> None:
        """Sets up what ``next_train`` needs."""
        if self.test_mode == "val":
            self._read_files()
        self.train_pixel_sampler = self._get_pixel_sampler(self.train_dataset, self.config.train_num_rays_per_batch)
        self.train_ray_generator = RayGenerator(self.train_dataset.cameras.to(self.device))

    def setup_eval(self) -> None:
        """Sets up what ``next_eval`` and the evaluation of whole images need."""
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
        batch = {"image": images.pixels, "image_idx": torch.arange(len(images))}
        inside = images.validity(images.height, images.width)
        if inside is not None:  # no pixels of padding
            batch["mask"] = inside[..., None] > 0
        batch = sampler.sample(batch)
        alpha_color = self.train_dataparser_outputs.alpha_color
        if alpha_color is None:
            batch["image"] = batch["image"].float() / 255
        else:
            batch["image"] = composite(premultiply(batch["image"]), alpha_color, channel_dim=-1)
        return ray_generator(batch["indices"]), batch

    def publish_cameras(self, train: Cameras, eval: Optional[Cameras] = None) -> None:
        """Make estimated cameras the ones that every nerfstudio command sees.

        They go to both datasets, the dataparser outputs, the evaluation dataloaders and the ray generators, and on
        the config, from which ``ns-render dataset`` builds further datamanagers.

        Args:
            train: cameras of the training images, of their size (`LearnedCameras.estimated`).
            eval: those of the held-out images; None leaves theirs alone.

        Raises:
            InputError: their number differs from that of the images.
        """
        _write_cameras(self.train_dataset, train, "training")
        if self.train_pixel_sampler is not None:
            self.train_ray_generator.cameras = self.train_dataset.cameras.to(self.device)
        if eval is not None:
            _write_cameras(self.eval_dataset, eval, "held-out")
            if self.eval_pixel_sampler is not None:
                for holder in (self.eval_ray_generator, self.fixed_indices_eval_dataloader, self.eval_dataloader):
                    holder.cameras = self.eval_dataset.cameras.to(self.device)
        previous = cast(Optional[PublishedCameras], self.config.published_cameras)
        if eval is None and previous is not None:
            eval = previous.eval
        self.config.published_cameras = PublishedCameras(
            self.run_images, train.to("cpu"), None if eval is None else eval.to("cpu")
        )
        if self.test_mode == "test" and len(self.eval_dataset) == 0:
            self._have_training_cameras_stand_in()

    def _have_training_cameras_stand_in(self) -> None:
        """For held-out ones, which ns-render takes without asking whether there are any."""
        remark("No image is held out: camera paths go through the training images, and these are rendered.")
        self.eval_dataset.cameras = self.train_dataset.cameras
        self.eval_dataloader = RandIndicesEvalDataloader(self.train_dataset, device=self.device)

    def use_lenses(self, lenses: Sequence[Intrinsics]) -> None:
        """Give the cameras of all images other lenses (see `UnposedDataset.use_lenses`)."""
        _ = self.run_images  # known by the lenses that they came with
        for dataset in (self.train_dataset, self.eval_dataset):
            dataset.use_lenses(lenses)

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


def side_on_cpu(images: ImageStack) -> int:
    """How long images are at most that a CPU trains on unless told otherwise, in pixels.

    Args:
        images: at any size.
    """
    if images.show_surroundings:
        return CPU_ROOM_SIDE
    return min(max(CPU_IMAGE_SIDE, round(CPU_OBJECT_SIDE / images.object_extent)), CPU_ROOM_SIDE)


def _say_changes(dataset: UnposedDataset, split: str) -> None:
    changes = dataset.changes()
    if changes is not None:
        remark(f"{split}: {changes}")


def _sources(dataset: UnposedDataset) -> List[ImageSource]:
    cameras = dataset.file_cameras
    focal_lengths = (cameras.fx / cameras.width).flatten().tolist()
    masks = dataset.mask_filenames or [None] * len(dataset)
    return [ImageSource(*each) for each in zip(dataset.image_filenames, masks, focal_lengths, strict=True)]


def _write_cameras(dataset: UnposedDataset, estimated: Cameras, kind: str) -> None:
    if len(estimated) != len(dataset):
        raise InputError(
            f"There are poses for {len(estimated)} {kind} images, but the data has {len(dataset)} of them; "
            "use the data that the model was trained on."
        )
    # In place: ns-export finds this very object in the dataparser outputs.
    cameras = dataset.cameras
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "distortion_params"):
        value = getattr(estimated, name)
        if value is not None:
            setattr(cameras, name, value.detach().to(cameras.device, torch.float32).clone())
