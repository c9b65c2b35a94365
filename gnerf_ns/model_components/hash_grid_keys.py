"""A checkpoint's hash grids are tiny-cuda-nn's or torch's, and cannot be turned into each other."""

from __future__ import annotations

from typing import List

from gnerf_ns.errors import InputError


def explain_other_hash_grids(
    missing: List[str], unexpected: List[str], torch_option: str = "--pipeline.model.implementation torch"
) -> None:
    """Say so if that is why a checkpoint does not fit.

    Args:
        missing: names that it lacks.
        unexpected: names that it has beyond those that are wanted.
        torch_option: what makes `ns-train` build hash grids that run on any machine.

    Raises:
        InputError: it is why.
    """
    if _is_tcnn(unexpected) and _is_torch(missing):
        raise InputError(
            "The checkpoint was trained with tiny-cuda-nn, which is not in use here; open it on a machine with a GPU "
            f"and tiny-cuda-nn, or train anew with {torch_option}."
        )
    if _is_torch(unexpected) and _is_tcnn(missing):
        # The config.yml says "auto" or "tcnn", which is tiny-cuda-nn here.
        raise InputError(
            "The checkpoint was trained with torch's hash grids, but here tiny-cuda-nn is in use; resume it with "
            f"{torch_option}, or open it after setting implementation: torch in its config.yml."
        )


def _is_tcnn(names: List[str]) -> bool:
    return any("tcnn" in name for name in names)


def _is_torch(names: List[str]) -> bool:
    return any("hash_table" in name for name in names)
