"""What tests of NoPoSplat share."""

from typing import Iterator

import pytest

from gnerf_ns.noposplat import datamanager


@pytest.fixture(scope="session", autouse=True)
def few_made_scenes() -> Iterator[None]:
    """All of a few scenes are looked at before training, or two hundred of many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datamanager, "NUM_MADE_SCENES", 12)
        yield
