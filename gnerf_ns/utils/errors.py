"""The one exception that bad input raises."""


class InputError(ValueError):
    """Something the user gave us cannot be used.

    The message is one clear sentence: what is wrong, where, and what to do about it. The console commands print that
    sentence on stderr and end with exit status 1 (`gnerf_ns.utils.commands`).
    """
