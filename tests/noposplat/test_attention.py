import math
from typing import List

import torch
from hypothesis import given
from hypothesis import strategies as st

from gnerf_ns.noposplat.attention import CrossAttention, DecoderBlock, rotate, rotations


def test_channels_turn_by_row_and_column() -> None:
    positions = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 5.0]], dtype=torch.float64)
    values = torch.randn(1, 1, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotated = rotate(values, rotations(positions, 8))
    for token, (row, column) in enumerate(positions.tolist()):
        for offset, position in ((0, row), (4, column)):
            for i in range(2):
                angle = position * 100.0 ** (-2 * i / 4)
                a, b = values[0, 0, token, offset + i].item(), values[0, 0, token, offset + i + 2].item()
                got = rotated[0, 0, token, [offset + i, offset + i + 2]].tolist()
                assert math.isclose(got[0], a * math.cos(angle) - b * math.sin(angle), abs_tol=1e-12)
                assert math.isclose(got[1], b * math.cos(angle) + a * math.sin(angle), abs_tol=1e-12)


@given(st.lists(st.integers(-40, 40), min_size=6, max_size=6))
def test_products_depend_on_where_tokens_are_relative_to_each_other(numbers: List[int]) -> None:
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one, other, shift = torch.tensor(numbers, dtype=torch.float64).view(3, 1, 2)

    def product(at: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        return (rotate(query, rotations(at, 16)) * rotate(key, rotations(to, 16))).sum()

    torch.testing.assert_close(product(one + shift, other + shift), product(one, other), atol=1e-10, rtol=0)


def test_cross_attention_is_a_softmax_over_rotated_products() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(24, heads=3).double()
    tokens, memory = torch.randn(2, 5, 24, dtype=torch.float64), torch.randn(2, 7, 24, dtype=torch.float64)
    here, there = (rotations(torch.rand(count, 2, dtype=torch.float64) * 9, 8) for count in (5, 7))
    found = attention(tokens, memory, here, there)

    queries, keys, values = attention.projq(tokens), attention.projk(memory), attention.projv(memory)
    heads = []
    for channels in (slice(0, 8), slice(8, 16), slice(16, 24)):
        query = rotate(queries[:, None, :, channels], here)[:, 0]
        key = rotate(keys[:, None, :, channels], there)[:, 0]
        heads.append((query @ key.mT / 8**0.5).softmax(dim=-1) @ values[..., channels])
    torch.testing.assert_close(found, attention.proj(torch.cat(heads, dim=-1)), atol=1e-12, rtol=0)


def test_gradients_of_a_block() -> None:
    torch.manual_seed(0)
    block = DecoderBlock(8, heads=2).double()
    here, there = (rotations(torch.rand(count, 2, dtype=torch.float64) * 3, 4) for count in (3, 4))
    tokens, memory = (torch.randn(1, count, 8, dtype=torch.float64, requires_grad=True) for count in (3, 4))
    assert torch.autograd.gradcheck(lambda *inputs: block(*inputs, here, there), (tokens, memory))
