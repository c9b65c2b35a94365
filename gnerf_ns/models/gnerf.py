"""The radiance field as a nerfstudio model: rendering inside the unit ball, losses and metrics, but no poses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Literal, Tuple, Type, Union

import torch
import tyro
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.model_components import renderers
from nerfstudio.model_components.losses import lossfun_distortion, ray_samples_to_sdist
from nerfstudio.model_components.renderers import AccumulationRenderer, DepthRenderer, RGBRenderer
from nerfstudio.model_components.shaders import NormalsShader
from nerfstudio.models.base_model import Model
from nerfstudio.utils import colormaps
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from gnerf_ns.cameras.rays import SHOWS_NOTHING, intersect_sphere
from gnerf_ns.data.image_set import composite
from gnerf_ns.fields.hash_radiance import HashRadianceConfig
from gnerf_ns.fields.mip360_radiance import Mip360RadianceConfig
from gnerf_ns.fields.mlp_radiance import MLPRadianceConfig
from gnerf_ns.fields.occupancy import OccupancyGrid
from gnerf_ns.fields.radiance import RadianceAlongRays
from gnerf_ns.fields.ray_histograms import upper_bounds
from gnerf_ns.models.image_metrics import ImageMetrics
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.options import ModelOptions

SCENE_RADIUS = 1.0
"""The object fills the ball of this radius around the origin, in scene units."""
BEYOND_THE_SCENE = 2.0 * SCENE_RADIUS
"""Rays that hit nothing end at least this far from the origin, beyond the corners of the scene box."""

CHARBONNIER_PADDING = 0.001
"""Errors of colors below it count by their square (Mip-NeRF 360, section 5)."""

SMALLEST_WEIGHT = 1e-7
"""Added to weights that are divided by."""

STEPS_PER_OCCUPANCY = 20
"""Training steps between two looks at which space is empty."""

WHOLE_SHARE = 0.05
"""Share of the training rays that are sampled where space is empty, too."""

LEAST_SEEN = 0.005
"""Pixels with less opacity, or whose color differs less from the background's, show nothing."""

NORMAL_RADIUS = 0.03 * SCENE_RADIUS
"""Distance over which normals are measured, in scene units; about a pixel where the ball fills 100 pixels."""


@dataclass
class GNeRFModelConfig(ModelOptions):
    """Configuration of `GNeRFModel`."""

    _target: Type = field(default_factory=lambda: GNeRFModel)
    """Target class to instantiate."""
    radiance: tyro.conf.AvoidSubcommands[Union[HashRadianceConfig, MLPRadianceConfig, Mip360RadianceConfig]] = field(
        default_factory=HashRadianceConfig
    )
    """Scene representation and its sampling along rays."""
    # White: black where an object is so pale that it can hardly be told from white. Random: another each step. Last
    # sample: each ray's last color, for images with their background.
    samples_empty_space: tyro.conf.Suppress[bool] = False
    """Whether rays are sampled in training where nothing is by now, too: for few images (`training/recipe.py`)."""
    background_color: Literal["white", "black", "random", "last_sample"] = "white"
    """Behind objects. white: black for pale ones; random: needs alpha or masks."""
    extent: Literal["ball", "unbounded"] = "ball"
    """ball: what lies in the unit ball, for objects that are alone or have masks; unbounded: everything, space beyond
    the unit ball being contracted (Mip-NeRF 360 eq. 10), for images with their background."""
    unbounded_planes: tyro.conf.Suppress[Tuple[float, float]] = (0.05, 1000.0)
    """Near and far plane of unbounded scenes, in scene units; all cameras are about in the unit ball."""
    photometric_loss: tyro.conf.Suppress[Literal["squared", "charbonnier"]] = "squared"
    """Of color errors: squared; or about absolute beyond `CHARBONNIER_PADDING`, so that what a field cannot explain
    counts for less (Mip-NeRF 360, section 5)."""
    photometric_loss_mult: tyro.conf.Suppress[float] = 1.0
    """Weight of the photometric loss."""
    opacity_loss_mult: float = 0.1
    """Weight of the mean squared difference between rendered opacity and alpha or masks, where images have them: over a
    white background, nothing else tells a white object from none."""
    interlevel_loss_mult: tyro.conf.Suppress[float] = 1.0
    """Weight of the interlevel loss, which trains the proposal network (Mip-NeRF 360 eq. 13)."""
    distortion_loss_mult: float = 0.002
    """Weight of the distortion loss (Mip-NeRF 360 eq. 15); the schedule increases it for few images."""
    eval_num_rays_per_chunk: tyro.conf.Suppress[int] = 8192
    """Rays rendered at once outside training."""


class GNeRFModel(Model):
    """A radiance field inside the unit ball."""

    config: GNeRFModelConfig

    def populate_modules(self) -> None:
        """Build the radiance, the renderers and the metrics.

        Raises:
            InputError: the radiance cannot be unbounded, but is to be.
        """
        super().populate_modules()
        extent: Dict[str, bool] = {}
        if self.config.extent == "unbounded":
            if isinstance(self.config.radiance, MLPRadianceConfig):
                raise InputError("GNeRF's own MLP cannot be unbounded; use --pipeline.model.extent ball.")
            extent["is_unbounded"] = True
        self.radiance = self.config.radiance.setup(
            scene_box=self.scene_box, num_train_data=self.num_train_data, **extent
        )
        self.renderer_rgb = RGBRenderer(background_color=self.config.background_color)
        self.renderer_accumulation = AccumulationRenderer()
        self.renderer_depth = DepthRenderer(method="median")
        self.renderer_expected_depth = DepthRenderer(method="expected")
        self.normals_shader = NormalsShader()
        self.image_metrics = ImageMetrics()
        self._distortion_boost = 1.0
        self._is_phase_a = False
        # Not where rays without matter show what is sampled last.
        has_empty_space = self.config.extent == "ball" and self.config.background_color != "last_sample"
        has_empty_space &= isinstance(self.config.radiance, HashRadianceConfig)
        self.occupancy = OccupancyGrid() if has_empty_space else None

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        """Parameters of the radiance, by optimizer group."""
        return self.radiance.get_param_groups()

    def set_schedule(
        self,
        phase_a: bool,
        phase_b_progress: float,
        active_levels: float,
        density_noise: float,
        distortion_boost: float = 1.0,
    ) -> None:
        """See `Radiance.set_schedule`; `distortion_boost` is a factor on the weight of the distortion loss."""
        self.radiance.set_schedule(phase_a, phase_b_progress, active_levels, density_noise)
        self._distortion_boost = distortion_boost
        self._is_phase_a = phase_a

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> List[TrainingCallback]:
        """From time to time in phase B, see which space is empty by now."""
        before = [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION]
        callbacks = super().get_training_callbacks(training_callback_attributes)
        return [*callbacks, TrainingCallback(before, self._follow_field, update_every_num_iters=STEPS_PER_OCCUPANCY)]

    def _follow_field(self, step: int) -> None:
        if self.occupancy is None or self._is_phase_a:
            return
        if self.knows_empty_space:
            self.occupancy.update(self.radiance.density, seed=step)
        else:  # what was known on another device does not follow the field here
            self.occupancy.forget()

    @property
    def knows_empty_space(self) -> bool:
        """Whether empty space is left out: by code compiled for CPUs, and not before phase B, when there is a shape."""
        return self.occupancy is not None and not self._is_phase_a and self.device.type == "cpu"

    def shows_nothing(self, pixels: Float[Tensor, "rays channels"]) -> Bool[Tensor, "rays 1"]:
        """Whether pixels (RGB or premultiplied RGBA in [0, 1]) are known to show nothing but the background."""
        if pixels.shape[-1] == 4:
            return pixels[:, 3:] < LEAST_SEEN
        if self.config.background_color not in ("white", "black"):
            return torch.zeros_like(pixels[:, :1], dtype=torch.bool)
        return ((pixels - self.evaluation_background).abs() < LEAST_SEEN).all(dim=-1, keepdim=True)

    def new_like(self) -> GNeRFModel:
        """A model with the same configuration and device, and with newly drawn weights."""
        new = self.config.setup(scene_box=self.scene_box, num_train_data=self.num_train_data, device=self.device)
        return new.to(self.device)

    def reset_parameters(self) -> None:
        """Draw all weights again, as at the start."""
        self.load_state_dict(self.new_like().state_dict())

    @property
    def evaluation_background(self) -> Float[Tensor, "3"]:
        """Background color outside training; black if it is random in training."""
        is_black = self.config.background_color in ("black", "random")
        return torch.full((3,), 0.0 if is_black else 1.0, device=self.device)

    def draw_background(self) -> Float[Tensor, "3"]:
        """Background color of a training step; another one at each call if the background is random."""
        if self.config.background_color == "random":
            return torch.rand(3, device=self.device)
        value = 0.0 if self.config.background_color == "black" else 1.0
        return torch.full((3,), value, device=self.device)

    def colors_over(self, outputs: Dict[str, Any], background: Float[Tensor, "3"]) -> Float[Tensor, "rays 3"]:
        """Rendered colors over a background from `draw_background`.

        Args:
            outputs: rgb [rays, 3] and accumulation [rays, 1], as from `render`.
            background: color in [0, 1].
        """
        if self.config.background_color != "random":
            return outputs["rgb"]  # already composited by the renderer
        return outputs["rgb"] + (1.0 - outputs["accumulation"]) * background

    def get_outputs(self, ray_bundle: RayBundle) -> Dict[str, Any]:
        """Outputs of `render` and, outside training, normals [rays, 3] mapped to [0, 1].

        Outside training, rays that hit no surface get a depth beyond the scene, so that surfaces reconstructed from
        depth images (``ns-export tsdf``) leave the space along them empty.
        """
        outputs = self.render(ray_bundle, with_depth=True)
        if not self.training:
            outputs["normals"] = self._surface_normals(ray_bundle, outputs)
            beyond = torch.linalg.vector_norm(ray_bundle.origins, dim=-1, keepdim=True) + BEYOND_THE_SCENE
            outputs["depth"] = torch.where(outputs["accumulation"] > 0.5, outputs["depth"], beyond)
        return outputs

    def render(self, ray_bundle: RayBundle, with_depth: bool = False) -> Dict[str, Any]:
        """Render a flat bundle of rays, differentiably also with respect to the rays.

        Rays are clipped to the unit ball and, if they have them, to their nears and fars (the viewer's crop box, or a
        surface that ns-export colors).

        Args:
            ray_bundle: unit directions.
            with_depth: whether depths are computed, which no loss looks at.

        Returns:
            rgb [rays, 3]; accumulation [rays, 1]; depth and expected_depth [rays, 1] (in scene units along the ray) if
            they are asked for; lists of the rgb and accumulation of coarser passes, if there are any, as `earlier_rgb`
            and `earlier_accumulation`; when training, also the `radiance` (`RadianceAlongRays`).
        """
        if self.config.extent == "unbounded":
            nears, fars = (torch.full_like(ray_bundle.origins[:, :1], plane) for plane in self.config.unbounded_planes)
            hits = torch.ones_like(nears[:, 0], dtype=torch.bool)
        else:
            nears, fars, hits = intersect_sphere(ray_bundle, SCENE_RADIUS)
        if self.config.background_color != "last_sample":
            # If all rays miss, one is sampled nevertheless; with an interval of length zero it stays empty.
            fars = torch.where(hits[:, None], fars, nears)
        if ray_bundle.nears is not None and ray_bundle.fars is not None:
            first, last = torch.maximum(nears, ray_bundle.nears), torch.minimum(fars, ray_bundle.fars)
            remains = first < last
            nears, fars = torch.where(remains, first, nears), torch.where(remains, last, nears)
            hits = hits & remains.squeeze(-1)
        ways, could_hit = fars - nears, hits
        if self.knows_empty_space:
            nears, fars, hits = self._without_empty_space(ray_bundle, nears, fars, hits)
        ray_bundle = replace(ray_bundle, nears=nears, fars=fars, metadata={})
        indices = self._rays_with_samples(hits)
        radiance: RadianceAlongRays = self.radiance(ray_bundle[indices])
        if self.training and self.knows_empty_space:
            shares = ((fars - nears) / ways.clamp_min(1e-9)).squeeze(-1)[indices]
            radiance.ray_counts = shares * (len(indices) / could_hit.sum().clamp_min(1))

        count, background = len(ray_bundle), self._background_of_misses()
        composited = self._composite(radiance)
        if with_depth:
            composited.update(self._depths(radiance))
        outputs: Dict[str, Any] = {
            name: _scatter(value, indices, count, background if name == "rgb" else value.new_zeros(1))
            for name, value in composited.items()
        }
        earlier = [self._composite(level) for level in radiance.earlier_levels]
        outputs["earlier_rgb"] = [_scatter(level["rgb"], indices, count, background) for level in earlier]
        outputs["earlier_accumulation"] = [
            _scatter(level["accumulation"], indices, count, background.new_zeros(1)) for level in earlier
        ]
        if self.training:
            outputs["radiance"] = radiance
        return outputs

    def _without_empty_space(
        self,
        ray_bundle: RayBundle,
        nears: Float[Tensor, "rays 1"],
        fars: Float[Tensor, "rays 1"],
        hits: Bool[Tensor, "rays"],
    ) -> Tuple[Float[Tensor, "rays 1"], Float[Tensor, "rays 1"], Bool[Tensor, "rays"]]:
        """Where rays begin and end to meet what is not empty, and which do.

        In training, rays that meet nothing are left out only where nothing is to be seen either, and a share of the
        others is sampled all along: matter that is missing could not grow where it is never looked for.
        """
        assert self.occupancy is not None
        first, last = self.occupancy.narrow(ray_bundle.origins, ray_bundle.directions, nears, fars)
        meets = first < last
        if self.training and self.config.samples_empty_space:
            is_whole = torch.ones_like(meets)
        elif self.training:
            shows_nothing = ray_bundle.metadata.get(SHOWS_NOTHING, torch.zeros_like(meets))
            is_whole = ~shows_nothing & (~meets | (torch.rand_like(first) < WHOLE_SHARE))
        else:
            is_whole = torch.zeros_like(meets)
        nears, fars = torch.where(is_whole, nears, first), torch.where(is_whole, fars, last)
        return nears, fars, hits & (nears < fars).squeeze(-1)

    def _rays_with_samples(self, hits: Bool[Tensor, "rays"]) -> Int[Tensor, "hits"]:
        """Indices of rays to sample: those that hit the ball, or all if the background is part of the field."""
        if self.config.background_color == "last_sample":
            return torch.arange(len(hits), device=hits.device)
        indices = torch.nonzero(hits).squeeze(-1)
        return indices if len(indices) else torch.zeros(1, dtype=torch.long, device=hits.device)

    def _composite(self, radiance: RadianceAlongRays) -> Dict[str, Any]:
        return {
            "rgb": self.renderer_rgb(rgb=radiance.rgb, weights=radiance.weights),
            "accumulation": self.renderer_accumulation(weights=radiance.weights),
        }

    @torch.no_grad()
    def _depths(self, radiance: RadianceAlongRays) -> Dict[str, Tensor]:
        weights, samples = radiance.weights, radiance.ray_samples
        return {
            "depth": self.renderer_depth(weights=weights, ray_samples=samples),
            "expected_depth": self.renderer_expected_depth(weights=weights, ray_samples=samples),
        }

    def _background_of_misses(self) -> Float[Tensor, "3"]:
        """Color of rays without samples, as the renderer would composite it; black if the background is random."""
        if renderers.BACKGROUND_COLOR_OVERRIDE is not None:  # the viewer's, for a crop
            return renderers.BACKGROUND_COLOR_OVERRIDE.to(self.device)
        return torch.full((3,), 1.0 if self.config.background_color == "white" else 0.0, device=self.device)

    def _surface_normals(self, ray_bundle: RayBundle, outputs: Dict[str, Tensor]) -> Float[Tensor, "rays 3"]:
        """Direction of the steepest fall of opacity at the surface, mapped to [0, 1]; takes six samples per ray."""
        surface = ray_bundle.origins + ray_bundle.directions * outputs["depth"]
        # Central differences over a distance, because the exact derivative shows every cell of the hash grid.
        steps = NORMAL_RADIUS * torch.eye(3, device=surface.device)
        positions = surface[:, None] + torch.cat([steps, -steps])
        with torch.no_grad():
            density = self.radiance.density(positions.flatten(0, 1)).view(-1, 2, 3)
        opacity = 1.0 - torch.exp(-NORMAL_RADIUS * density)
        normals = F.normalize(opacity[:, 1] - opacity[:, 0], dim=-1)
        return self.normals_shader(normals, outputs["accumulation"])

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> Dict[str, Tensor]:
        """The photometric loss and, when training, the regularization losses."""
        loss_dict = {"photometric_loss": self.get_photometric_loss(outputs, batch["image"])}
        if self.training:
            loss_dict.update(self.get_regularization_losses(outputs))
        return loss_dict

    def get_photometric_loss(
        self, outputs: Dict[str, Any], pixels: Float[Tensor, "rays channels"]
    ) -> Float[Tensor, ""]:
        """Weighted mean color error, summed over the coarse and the fine pass if there are two (NeRF eq. 6).

        Args:
            outputs: outputs of `render`.
            pixels: RGB or premultiplied RGBA of the image in [0, 1], at the same rays.
        """
        background = self.draw_background()
        target = composite(pixels, background, channel_dim=-1)
        difference = F.mse_loss if self.config.photometric_loss == "squared" else charbonnier_loss
        loss = difference(self.colors_over(outputs, background), target)
        for rgb, accumulation in zip(outputs["earlier_rgb"], outputs["earlier_accumulation"], strict=True):
            earlier = self.colors_over({"rgb": rgb, "accumulation": accumulation}, background)
            loss = loss + difference(earlier, target)
        return self.config.photometric_loss_mult * loss

    def get_opacity_losses(
        self, outputs: Dict[str, Any], pixels: Float[Tensor, "rays channels"]
    ) -> Dict[str, Float[Tensor, ""]]:
        """Weighted mean squared error of the accumulated opacity; none where the images have no alpha.

        Args:
            outputs: outputs of `render`.
            pixels: as in `get_photometric_loss`.
        """
        if pixels.shape[-1] != 4 or self.config.opacity_loss_mult == 0.0:
            return {}
        accumulations = [outputs["accumulation"], *outputs["earlier_accumulation"]]
        losses = [F.mse_loss(accumulation, pixels[:, 3:]) for accumulation in accumulations]
        return {"opacity_loss": self.config.opacity_loss_mult * torch.stack(losses).sum()}

    def get_regularization_losses(self, outputs: Dict[str, Any]) -> Dict[str, Tensor]:
        """Interlevel and distortion losses; none if the representation has no proposal network."""
        radiance: RadianceAlongRays = outputs["radiance"]
        if not radiance.proposal_weights:
            return {}
        distortion_mult = self._distortion_boost * self.config.distortion_loss_mult
        return {
            "interlevel_loss": self.config.interlevel_loss_mult * interlevel_loss(radiance),
            "distortion_loss": distortion_mult * distortion_of(radiance),
        }

    def get_metrics_dict(self, outputs, batch) -> Dict[str, Tensor]:
        """PSNR of rendered rays, in dB."""
        background = self.draw_background()
        target = composite(batch["image"], background, channel_dim=-1)
        return {"psnr": -10.0 * torch.log10(F.mse_loss(self.colors_over(outputs, background), target))}

    def get_rgba_image(self, outputs: Dict[str, Tensor], output_name: str = "rgb") -> Float[Tensor, "*pixels 4"]:
        """Straight color and opacity, so that exported point clouds contain the object without the background."""
        rgb, accumulation = outputs[output_name], outputs["accumulation"]
        if self.config.background_color in ("white", "black"):
            rgb = rgb - (1.0 - accumulation) * self._background_of_misses()
        return torch.cat([(rgb / accumulation.clamp_min(1e-6)).clamp(0.0, 1.0), accumulation], dim=-1)

    def get_image_metrics_and_images(self, outputs, batch) -> Tuple[Dict[str, float], Dict[str, Tensor]]:
        """PSNR, SSIM (and LPIPS where its weights are at hand) of one image, and images to look at.

        Where the batch has a mask (bool [height, width, 1]), the image is padded, and only what lies inside counts.
        """
        inside = self._inside_padding(batch)
        outputs = {name: outputs[name][inside] for name in ("rgb", "accumulation", "depth", "normals")}
        truth, rendered = self._truth(batch), outputs["rgb"].clamp(0.0, 1.0)
        metrics = self.image_metrics(rendered, truth)
        images = {
            "img": torch.cat([truth, rendered, (truth - rendered).abs()], dim=1),
            "accumulation": colormaps.apply_colormap(outputs["accumulation"]),
            "depth": colormaps.apply_depth_colormap(outputs["depth"], accumulation=outputs["accumulation"]),
            "normals": outputs["normals"],
        }
        return metrics, images

    @torch.no_grad()
    def get_image_psnr(self, camera: Cameras, batch: Dict[str, Any]) -> float:
        """The PSNR of `get_image_metrics_and_images` (dB), without what else that looks at."""
        rays = camera.to(self.device).generate_rays(camera_indices=0, keep_shape=True)
        flat, count = rays.flatten(), self.config.eval_num_rays_per_chunk
        colors = torch.cat([self.render(flat[first : first + count])["rgb"] for first in range(0, len(flat), count)])
        rendered = colors.view(*rays.shape, 3)[self._inside_padding(batch)].clamp(0.0, 1.0)
        return float(-10.0 * torch.log10(F.mse_loss(rendered, self._truth(batch))))

    def _inside_padding(self, batch: Dict[str, Any]) -> Any:
        return _rectangle(batch["mask"]) if "mask" in batch else ...

    def _truth(self, batch: Dict[str, Any]) -> Float[Tensor, "height width 3"]:
        """What an image's rendering is compared with, without padding."""
        image = batch["image"][self._inside_padding(batch)].to(self.device)
        if image.shape[-1] == 4:
            image = torch.cat([image[..., :3] * image[..., 3:], image[..., 3:]], dim=-1)
        return composite(image, self.evaluation_background.to(image), channel_dim=-1)


def charbonnier_loss(
    colors: Float[Tensor, "rays channels"], target: Float[Tensor, "rays channels"]
) -> Float[Tensor, ""]:
    """Mean of sqrt(difference^2 + padding^2)."""
    return ((colors - target).square() + CHARBONNIER_PADDING**2).sqrt().mean()


def distortion_of(radiance: RadianceAlongRays) -> Float[Tensor, ""]:
    """The mean of nerfstudio's distortion loss (Mip-NeRF 360 eq. 15), over all rays and in units of their whole way,
    those and that included which were not sampled because they are empty."""
    lengths = ray_samples_to_sdist(radiance.ray_samples)
    losses: Float[Tensor, "rays"] = lossfun_distortion(lengths, radiance.weights[..., 0])
    return (losses if radiance.ray_counts is None else losses * radiance.ray_counts).mean()


def interlevel_loss(radiance: RadianceAlongRays) -> Float[Tensor, ""]:
    """What the proposal networks' weights fail to bound of the final ones, which are constants here (Mip-NeRF 360 eq.
    13): a mean over all samples, summed over rounds of proposals."""
    edges, weights = ray_samples_to_sdist(radiance.ray_samples).detach(), radiance.weights.detach().squeeze(-1)
    losses = []
    for samples, proposed in zip(radiance.proposal_samples, radiance.proposal_weights, strict=True):
        bounds = upper_bounds(edges, ray_samples_to_sdist(samples).detach().contiguous(), proposed.squeeze(-1))
        losses.append(((weights - bounds).clamp_min(0.0).square() / (weights + SMALLEST_WEIGHT)).mean())
    return torch.stack(losses).sum()


def _rectangle(mask: Bool[Tensor, "height width 1"]) -> Tuple[slice, slice]:
    """Rows and columns of the smallest rectangle that holds all of a mask."""
    rows, columns = (mask[..., 0].any(dim=axis).nonzero() for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _scatter(
    values: Float[Tensor, "hits channels"], indices: Tensor, count: int, fill: Float[Tensor, "filled"]
) -> Float[Tensor, "count channels"]:
    """A tensor of `count` rows that are `fill`, but for `values` in the rows `indices`."""
    if len(values) == count:
        return values
    return fill.to(values).expand(count, values.shape[-1]).index_copy(0, indices, values)
