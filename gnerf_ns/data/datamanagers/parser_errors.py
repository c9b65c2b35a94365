"""One sentence in place of the tracebacks in which nerfstudio's own dataparsers end on bad data."""

import struct
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from gnerf_ns.errors import InputError

PARSER_ERRORS = (
    OSError,
    AssertionError,
    LookupError,  # an entry is missing
    ValueError,  # broken JSON or text, or no number
    TypeError,
    AttributeError,
    RuntimeError,
    struct.error,  # a cut off COLMAP file
)
"""What the stock parsers raise on files that are missing, broken or incomplete."""


@contextmanager
def one_sentence_for(parser: str, data: Path) -> Iterator[None]:
    """Turn the errors of a stock parser within the block into an `InputError`.

    Args:
        parser: its name.
        data: what it reads.

    Raises:
        InputError: for any of `PARSER_ERRORS`; one raised within goes on unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except PARSER_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or "without a reason"
        raise InputError(
            f"{data} cannot be read by the dataparser {parser} ({type(error).__name__}: {reason}); correct its files, "
            "or choose another dataparser."
        ) from error
