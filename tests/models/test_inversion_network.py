import subprocess
import sys
from typing import Any, Dict

import pytest
import torch

from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.models.adversarial_losses import inversion_loss
from gnerf_ns.models.inversion_network import InversionNetworkConfig
from gnerf_ns.utils.errors import InputError

SMALL: Dict[str, Any] = {"image_side": 16, "tokens_per_side": 4, "width": 32, "depth": 2, "heads": 4, "mlp_width": 32}


def test_the_paper_s_sizes() -> None:
    network = InversionNetworkConfig().setup(code_dim=9)
    transformer = network.transformer
    assert transformer.patch_embed.num_patches == 16 * 16
    assert transformer.pos_embed.shape == (1, 257, 256)
    assert len(transformer.blocks) == 6
    assert transformer.blocks[0].attn.num_heads == 16
    assert transformer.blocks[0].mlp.fc1.weight.shape == (256, 256)
    with torch.no_grad():
        assert network(torch.rand(2, 3, 64, 64)).shape == (2, 9)


def test_the_fused_block_is_timm_s_block() -> None:
    from timm.models.vision_transformer import Block

    from gnerf_ns.models.fused_attention import FusedAttentionBlock

    blocks = []
    for kind in (Block, FusedAttentionBlock):
        torch.manual_seed(0)
        blocks.append(kind(24, num_heads=3, mlp_ratio=2.0, qkv_bias=True).double())
    tokens = torch.randn(2, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(blocks[1](tokens), blocks[0](tokens), atol=1e-12, rtol=0)
    assert blocks[1].state_dict().keys() == blocks[0].state_dict().keys()


@pytest.mark.parametrize("code_dim", [3, 9])
@pytest.mark.parametrize("radius_range", [(1.0, 1.0), (0.8, 1.25)])
def test_positions_keep_their_distance(code_dim: int, radius_range: tuple[float, float]) -> None:
    torch.manual_seed(0)
    network = InversionNetworkConfig(radius_range=radius_range, **SMALL).setup(code_dim=code_dim)
    images = torch.rand(20, 3, 16, 16)
    with torch.no_grad():
        codes = network(images)
        assert codes.shape == (20, code_dim)
        distances = codes[:, :3].norm(dim=-1)
        assert distances.min() >= radius_range[0] - 1e-5 and distances.max() <= radius_range[1] + 1e-5
        for bound, certainty in zip(radius_range, (-100.0, 100.0), strict=True):
            network.transformer.head.bias[-1] = certainty
            distances = network(images)[:, :3].norm(dim=-1)
            torch.testing.assert_close(distances, torch.full((20,), bound))


def test_it_can_express_every_distance_of_the_prior() -> None:
    network = InversionNetworkConfig(**SMALL).setup(prior_radius_range=(0.5, 2.0))
    assert network.radius_range == (0.4, 2.5)
    assert InversionNetworkConfig(**SMALL).setup().radius_range == (0.8, 1.25)
    assert InversionNetworkConfig(radius_range=(0.9, 1.1), **SMALL).setup(
        prior_radius_range=(0.5, 2.0)
    ).radius_range == (
        0.9,
        1.1,
    )


def test_in_9d_mode_it_starts_from_cameras_that_look_at_the_origin() -> None:
    torch.manual_seed(0)
    network = InversionNetworkConfig(**SMALL).setup(code_dim=9)
    poses = PoseCodec("free", radius=2.0).decode(network(torch.rand(20, 3, 16, 16)).detach())
    towards_origin = -torch.nn.functional.normalize(poses[:, :, 3], dim=-1)
    looking = -poses[:, :, 2]
    assert (towards_origin * looking).sum(dim=-1).min() > 0.8


def test_an_undecided_network_stays_midway_and_finite() -> None:
    network = InversionNetworkConfig(**SMALL).setup()
    torch.nn.init.zeros_(network.transformer.head.weight)
    torch.nn.init.zeros_(network.transformer.head.bias)
    network(torch.rand(2, 3, 16, 16)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    torch.nn.init.constant_(network.transformer.head.bias[:1].detach(), 1.0)
    codes = network(torch.rand(2, 3, 16, 16))
    torch.testing.assert_close(codes, torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3))


def test_it_learns_where_a_bright_spot_is() -> None:
    torch.manual_seed(0)
    network = InversionNetworkConfig(**SMALL).setup()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    directions = torch.nn.functional.normalize(torch.tensor([[1.0, 1, 1], [-1, 1, 1], [1, -1, 1], [-1, -1, 1]]), dim=-1)
    images = torch.zeros(4, 3, 16, 16)
    for index, (row, column) in enumerate([(2, 2), (2, 12), (12, 2), (12, 12)]):
        images[index, :, row : row + 3, column : column + 3] = 1.0
    first = inversion_loss(network, images, directions).item()
    for _ in range(80):
        loss = inversion_loss(network, images, directions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first > 0.1 and inversion_loss(network, images, directions).item() < 0.01


@pytest.mark.parametrize(
    "changes",
    [{"image_side": 15}, {"heads": 5}, {"radius_range": (0.0, 1.0)}, {"radius_range": (2.0, 1.0)}],
)
def test_impossible_sizes_are_refused(changes: Dict[str, Any]) -> None:
    with pytest.raises(InputError, match="inversion network"):
        InversionNetworkConfig(**{**SMALL, **changes}).setup()


def test_importing_the_module_does_not_import_timm() -> None:
    program = (
        "import sys; import gnerf_ns.models.inversion_network; "
        "sys.exit(any(name.split('.')[0] == 'timm' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
