"""The one exception that bad input raises."""


class InputError(ValueError):
    """Something the user gave us cannot be used.

    The message is one clear sentence: what is wrong, where, and what to do about it. The console commands print that
    sentence on stderr and end with exit status 1 (`gnerf_ns.utils.commands`).
    """


def in_short(error: Exception) -> str:
    """What an exception says, as a part of a sentence: its first line, and of which type it is where nobody wrote it
    for users."""
    first = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    name = type(error).__name__
    return first if isinstance(error, InputError) else f"{name}: {first}" if first else name
