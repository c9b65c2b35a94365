"""nerfstudio's density field for proposals, with the hash grid that is fast on CPUs."""

from __future__ import annotations

from typing import Literal

from nerfstudio.fields.density_fields import HashMLPDensityField
from torch import Tensor, nn

from gnerf_ns.field_components.compiled_hash_encoding import CompiledHashEncoding


class CompiledDensityField(HashMLPDensityField):
    """`HashMLPDensityField` on a `CompiledHashEncoding`; the state is the same."""

    def __init__(
        self,
        aabb: Tensor,
        num_levels: int,
        base_res: int,
        max_res: int,
        log2_hashmap_size: int,
        implementation: Literal["tcnn", "torch"],
        **kwargs,
    ) -> None:
        super().__init__(
            aabb,
            num_levels=num_levels,
            base_res=base_res,
            max_res=max_res,
            log2_hashmap_size=log2_hashmap_size,
            implementation=implementation,
            **kwargs,
        )
        self.encoding = CompiledHashEncoding(
            num_levels=num_levels,
            min_res=base_res,
            max_res=max_res,
            log2_hashmap_size=log2_hashmap_size,
            implementation=implementation,
        )
        self.mlp_base = nn.Sequential(self.encoding, self.mlp_base[1])
