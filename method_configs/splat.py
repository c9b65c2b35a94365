"""The method of the runs that gnerf-splat writes; nothing is trained by it."""

from nerfstudio.plugins.types import MethodSpecification

from gnerf_ns.noposplat.splat_run import SplatRunConfig

gnerf_splat = MethodSpecification(
    config=SplatRunConfig(),
    description="What gnerf-splat makes of two to twelve photos; written by that command, not trained.",
)
