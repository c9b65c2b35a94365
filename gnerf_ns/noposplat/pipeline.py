"""nerfstudio's pipeline with NoPoSplat's evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Type

import torch
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from torch import Tensor

from gnerf_ns.cameras.plots import save_image
from gnerf_ns.noposplat.datamanager import NoPoSplatDataManager, NoPoSplatDataManagerConfig
from gnerf_ns.noposplat.evaluation import PoseFinder, SceneFigures, poses_from_points, scene_figures, summary
from gnerf_ns.noposplat.model import NoPoSplatModel, NoPoSplatModelConfig
from gnerf_ns.noposplat.view_cameras import rendered
from gnerf_ns.scenes.evaluation_sets import overlap_class
from gnerf_ns.scenes.view_sampling import Example
from gnerf_ns.utils.checkpoints import check_finite, check_keys
from gnerf_ns.utils.console import remark


@dataclass
class NoPoSplatPipelineConfig(VanillaPipelineConfig):
    """Configuration of `NoPoSplatPipeline`."""

    _target: Type = field(default_factory=lambda: NoPoSplatPipeline)
    """Target class to instantiate."""
    datamanager: NoPoSplatDataManagerConfig = field(default_factory=NoPoSplatDataManagerConfig)
    """What is learned from."""
    model: NoPoSplatModelConfig = field(default_factory=NoPoSplatModelConfig)
    """What learns."""


class NoPoSplatPipeline(VanillaPipeline):
    """Examples in, losses out, as nerfstudio's own does with rays; and figures of held-out scenes.

    Attributes:
        find_poses: from Gaussians to the cameras of the context views, for the evaluation; None to leave poses out.
    """

    config: NoPoSplatPipelineConfig
    datamanager: NoPoSplatDataManager
    model: NoPoSplatModel
    find_poses: Optional[PoseFinder]

    def __init__(self, config: NoPoSplatPipelineConfig, device: Any, *arguments: Any, **options: Any) -> None:
        """
        Args:
            config: data and model.
            device: where to compute.
            arguments: nerfstudio's.
            options: nerfstudio's.
        """
        # Checkpoints of the network say what size it was trained at.
        width, height = config.datamanager.size
        config.model.network.image_side = round((width * height) ** 0.5)
        super().__init__(config, device, *arguments, **options)
        self.model.show(self.datamanager.shown)
        self.find_poses = poses_from_points

    def get_train_loss_dict(self, step: int) -> Tuple[Any, Dict[str, Tensor], Dict[str, Tensor]]:
        """Losses of a step's examples. What is dropped out depends on the step, for a resumed training's sake."""
        torch.manual_seed(self.datamanager.dropout_seed(step))
        return super().get_train_loss_dict(step)

    def load_pipeline(self, loaded_state: Dict[str, Any], step: int) -> None:
        """Load a checkpoint.

        Raises:
            InputError: it does not fit, or has numbers that are not finite.
        """
        # Several processes' models are one attribute further in.
        state = {name.replace("_model.module.", "_model.", 1): value for name, value in loaded_state.items()}
        check_keys(state, {f"_model.{name}": value for name, value in self.model.state_dict().items()})
        check_finite(state)
        super().load_pipeline(state, step)

    # Evaluation

    @torch.no_grad()
    def get_eval_image_metrics_and_images(self, step: int) -> Tuple[Dict[str, float], Dict[str, Tensor]]:
        """Metrics of the held-out scene that the viewer shows; context views, then targets over their renderings."""
        self.eval()
        example = self.datamanager.shown
        figures, image = self._figures_and_image(self.datamanager.shown_scene, example)
        self.train()
        height, width = example.target.images.shape[-2:]
        return {**figures.images, "num_rays": float(example.target.images.shape[1] * height * width)}, {"img": image}

    @torch.no_grad()
    def get_average_eval_image_metrics(
        self, step: Optional[int] = None, output_path: Optional[Path] = None, get_std: bool = False
    ) -> Dict[str, float]:
        """Means over all held-out scenes, of all and by class of overlap (see `evaluation.summary`).

        Args:
            step: of the training, without effect.
            output_path: folder for an image of each scene.
            get_std: add standard deviations over the scenes, of what is measured of images.
        """
        remark(
            "Held-out targets are rendered at their true poses, the context cameras being 1 apart, and nothing is "
            "optimized on them."
        )
        self.eval()
        found: List[SceneFigures] = []
        for key, example in self.datamanager.eval_examples():
            figures, image = self._figures_and_image(key, example)
            found.append(figures)
            if output_path is not None:
                output_path.mkdir(parents=True, exist_ok=True)
                name = key.replace("/", "_")
                save_image(output_path / f"{name}.png", (255.0 * image).round().byte().cpu().numpy())
        self.train()
        metrics = summary(found)
        if get_std:
            for name in found[0].images:
                values = torch.tensor([each.images[name] for each in found])
                metrics[f"{name}_std"] = float(values.std(correction=0))
        return metrics

    def _figures_and_image(self, key: str, example: Example) -> Tuple[SceneFigures, Tensor]:
        """Of one held-out scene: figures, and context views beside targets over renderings [height, width, 3]."""
        overlap = overlap_class(self.datamanager.evaluation_set[key].overlap)
        model = self.model
        gaussians = model.network(example.context.images, example.context.intrinsics)
        figures = scene_figures(lambda *_: gaussians, example, overlap, model.image_metrics, self.find_poses)
        context, target = example.context.images[0], example.target.images[0]
        shown = rendered(gaussians, example.target)[0].clamp(0.0, 1.0)
        rows = [
            torch.cat([*context, *target], dim=-1),
            torch.cat([*torch.zeros_like(context), *shown], dim=-1),
        ]
        return figures, torch.cat(rows, dim=-2).permute(1, 2, 0)
