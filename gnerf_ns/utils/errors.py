"""The one exception that bad input raises."""


class InputError(SystemExit, ValueError):
    """Something the user gave us cannot be used.

    The message is one clear sentence: what is wrong, where, and what to do about it. It is a ``ValueError`` for
    callers of the library, and a ``SystemExit`` so that the ``ns-*`` commands end with that sentence on stderr and
    exit code 1 instead of a traceback.
    """
