"""The compiled hash grid against nerfstudio's, which is the reference, and against finite differences."""

import sys
import threading
from typing import Any, Dict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.field_components.encodings import HashEncoding
from torch import Tensor

from gnerf_ns.fields.hash_encoding import CompiledHashEncoding, HashGridLookUp
from gnerf_ns.utils.compiled_kernels import KERNEL_LOCK

FILES = ("/hash_encoding.py", "/compiled_kernels.py", "threading.py")

SIZES: Dict[str, Any] = {"num_levels": 5, "min_res": 4, "max_res": 70, "log2_hashmap_size": 9, "hash_init_scale": 1.0}


def pair(**options: Any) -> tuple[CompiledHashEncoding, HashEncoding]:
    torch.manual_seed(0)
    compiled = CompiledHashEncoding(implementation="torch", **{**SIZES, **options})
    stock = HashEncoding(implementation="torch", **{**SIZES, **options})
    stock.load_state_dict(compiled.state_dict())
    return compiled, stock


def outcome(encoding: HashEncoding, positions: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """Features, and the gradients of their weighted sum in positions and table."""
    positions = positions.clone().requires_grad_()
    features = encoding(positions)
    gradients = torch.autograd.grad((features * weights).sum(), [positions, encoding.hash_table])
    return features.detach(), *gradients


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 2**31),
    st.sampled_from([(1,), (7,), (3, 2), (9000,)]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([(4, 4, 1), (4, 70, 5), (16, 500, 3)]),
)
def test_equals_the_stock_encoding_with_all_gradients(seed: int, shape: tuple, features: int, levels: tuple) -> None:
    smallest, largest, count = levels
    compiled, stock = pair(features_per_level=features, min_res=smallest, max_res=largest, num_levels=count)
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(*shape, 3, generator=generator)
    weights = torch.randn(*shape, count * features, generator=generator)
    # Sums of thousands of samples in another order; a gradient in positions is up to 500 cells times a difference.
    for value, expected in zip(outcome(compiled, positions, weights), outcome(stock, positions, weights), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 1.0])
def test_on_the_corners_of_cells_too(value: float) -> None:
    compiled, stock = pair(max_res=64)
    positions = torch.full((1, 3), value)
    for mine, expected in zip(
        outcome(compiled, positions, torch.ones(1, 10)), outcome(stock, positions, torch.ones(1, 10)), strict=True
    ):
        torch.testing.assert_close(mine, expected)


def test_gradients_in_double_precision() -> None:
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(2 * 64, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    # Inside their cells, where features have derivatives.
    cells = torch.randint(0, 3, (6, 3), generator=generator)
    inside = 0.1 + 0.8 * torch.rand(6, 3, generator=generator, dtype=torch.float64)
    positions = ((cells + inside) / 3).requires_grad_()
    scalings = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda where, what: HashGridLookUp.apply(where, what, scalings, 64), (positions, table), eps=1e-7
    )


def test_no_samples_have_no_features() -> None:
    compiled, _ = pair()
    features = compiled(torch.zeros(0, 3))
    assert features.shape == (0, 10)
    features.sum().backward()
    assert compiled.hash_table.grad is not None and not compiled.hash_table.grad.any()


def test_many_threads_may_look_up_at_once() -> None:
    """As two pages of the viewer do while training goes on."""
    compiled, _ = pair()
    positions = torch.rand(20_000, 3)
    expected = compiled(positions).detach()
    equal = []

    def work() -> None:
        for _ in range(5):
            equal.append(torch.equal(compiled(positions), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(equal) == 20 and all(equal)


class Stopped(Exception):
    """What the viewer raises from its trace function."""


def test_a_rendering_stopped_at_any_line_stops_no_other() -> None:
    compiled, _ = pair()
    positions = torch.rand(10, 3)
    expected = compiled(positions).detach()
    stopped = 0
    for lines_until_stop in range(60):
        remaining = lines_until_stop

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal remaining
            if event == "line" and frame.f_code.co_filename.endswith(FILES):
                remaining -= 1
                if remaining < 0:
                    raise Stopped
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            compiled(positions)
        except Stopped:
            stopped += 1
        finally:
            sys.settrace(before)
        assert not KERNEL_LOCK.locked(), f"stopped at line event {lines_until_stop}"
    assert stopped > 5
    assert torch.equal(compiled(positions), expected)
