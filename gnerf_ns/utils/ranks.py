"""Several processes that train one run together: what they share out, and what they make equal."""

from __future__ import annotations

import io
import pickle
from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, List, TypeVar, Union

import torch
from jaxtyping import Shaped
from nerfstudio.utils import comms
from torch import Tensor, distributed, nn

Result = TypeVar("Result")


class Ranks:
    """The processes of a run, each with a device of its own, as nerfstudio has started them.

    Of a single process, nothing is sent, and nothing is different.

    Attributes:
        count: how many there are.
        rank: which of them this is, from 0.
    """

    def __init__(self, device: Union[str, torch.device] = "cpu") -> None:
        """
        Args:
            device: this process's own.
        """
        self.count, self.rank = comms.get_world_size(), comms.get_rank()
        self._shares = False
        if self.count > 1 and torch.device(device).type == "cuda":
            torch.cuda.set_device(device)  # where objects are sent from; nerfstudio leaves it at the first of all

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @contextmanager
    def working_together(self) -> Iterator[None]:
        """While this lasts, `rows` shares work out: all processes do the same, with the same random numbers."""
        self._shares = self.count > 1
        try:
            yield
        finally:
            self._shares = False

    def rows(
        self, count: int, compute: Callable[[slice], Shaped[Tensor, "some *shape"]]
    ) -> Shaped[Tensor, "{count} *shape"]:
        """Rows of a tensor, of which each process computes a part where they work together, else all.

        Args:
            count: how many rows there are.
            compute: gives some of them, never none. Where work is shared, its random numbers are each process's own,
                and what it asks of `rows` is done alone.
        """
        if not self._shares or count < self.count:
            # On GPUs, processes may come to slightly different values even so.
            return self.of_first(compute(slice(0, count)))
        ends = [count * (rank + 1) // self.count for rank in range(self.count)]
        begins = [0, *ends[:-1]]
        seed = int(torch.randint(2**31, ()))  # drawn by all alike
        self._shares = False  # what is part of a part is done alone
        try:
            with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
                torch.manual_seed(seed + self.rank)
                mine = compute(slice(begins[self.rank], ends[self.rank])).contiguous()
        finally:
            self._shares = True
        largest = max(end - begin for begin, end in zip(begins, ends, strict=True))
        padded = mine.new_zeros(largest, *mine.shape[1:])
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        distributed.all_gather(parts, padded)
        return torch.cat([part[: end - begin] for part, begin, end in zip(parts, begins, ends, strict=True)])

    def gathered(self, mine: Shaped[Tensor, "n *shape"]) -> Shaped[Tensor, "all *shape"]:
        """Rows of all processes, as many of each."""
        if self.count == 1:
            return mine
        parts = [torch.empty_like(mine) for _ in range(self.count)]
        distributed.all_gather(parts, mine.contiguous())
        return torch.cat(parts)

    def of_first(self, value: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """The first process's value, on all; where they work together."""
        if self._shares:
            value = value.contiguous()
            distributed.broadcast(value, src=0)
        return value

    def done_by_first(self, work: Callable[[], Result]) -> Result:
        """What the first process comes to while the others wait, or why it comes to nothing.

        Args:
            work: its result, or the exception that it raises, has to be picklable.
        """
        if self.count == 1:
            return work()
        result: Any = None
        outcome: List[Any] = [None, None]
        if self.is_first:
            try:
                result, written = work(), io.BytesIO()
                torch.save(result, written)
                outcome[0] = written.getvalue()
            except Exception as error:  # of whatever kind: the others wait
                outcome[1] = _sendable(error)
        distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        if self.is_first:
            return result
        return torch.load(io.BytesIO(outcome[0]), map_location=_to_own_device, weights_only=False)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """While this lasts, the first process does something, and then the others, who find what it left on disk."""
        if self.count > 1 and not self.is_first:
            comms.synchronize()
        try:
            yield
        finally:  # the others find out for themselves what went wrong
            if self.count > 1 and self.is_first:
                comms.synchronize()

    @torch.no_grad()
    def make_equal(self, *modules: nn.Module) -> None:
        """Give all processes the first one's parameters and buffers."""
        if self.count == 1:
            return
        for module in modules:
            for value in (*module.parameters(), *module.buffers()):
                distributed.broadcast(value.detach(), src=0)

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give all processes the mean of their gradients. One without a gradient counts as 0, unless none has any."""
        if self.count == 1:
            return
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        if not learned:
            return
        has_any = torch.tensor([parameter.grad is not None for parameter in learned], device=learned[0].device)
        has_any = has_any.float()
        distributed.all_reduce(has_any)
        taken = [parameter for parameter, count in zip(learned, has_any.tolist(), strict=True) if count > 0]
        for parameter in taken:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for kind in sorted({parameter.dtype for parameter in taken}, key=str):
            gradients = [
                parameter.grad for parameter in taken if parameter.dtype == kind and parameter.grad is not None
            ]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            distributed.all_reduce(flat)
            flat /= self.count
            for gradient, mean in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def are_all(self, condition: bool, device: torch.device) -> bool:
        """Whether something holds on every process."""
        if self.count == 1:
            return condition
        value = torch.tensor(float(condition), device=device)
        distributed.all_reduce(value, op=distributed.ReduceOp.MIN)
        return bool(value > 0)


def _sendable(error: Exception) -> Exception:
    """The same, or its words where it cannot be pickled."""
    try:
        pickle.dumps(error)
    except Exception:  # whatever the parts of an error make of being pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _to_own_device(storage: Any, location: str) -> Any:
    """What was on the first process's GPU is to be on this one's."""
    return storage.cuda(torch.cuda.current_device()) if location.startswith("cuda") else storage
