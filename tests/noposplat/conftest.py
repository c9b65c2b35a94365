"""What tests of NoPoSplat share."""

from typing import Any, Dict, Iterator

import pytest

from gnerf_ns.noposplat import datamanager
from gnerf_ns.scenes.made_scenes import MadeScenes


@pytest.fixture(scope="session", autouse=True)
def few_made_scenes() -> Iterator[None]:
    """All of a few scenes are looked at before training, or two hundred of many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datamanager, "NUM_MADE_SCENES", 12)
        yield


@pytest.fixture(scope="session", autouse=True)
def views_chosen_once() -> Iterator[None]:
    """Views of held-out made scenes are always the same, and take longer to choose than all else takes to build."""
    choose, chosen = datamanager.made_evaluation_set, {}

    def recalled(scenes: MadeScenes) -> Dict[str, Any]:
        key = scenes.name, tuple(scenes.keys), scenes.scene(scenes.keys[0]).size
        if key not in chosen:
            chosen[key] = choose(scenes)
        return dict(chosen[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datamanager, "made_evaluation_set", recalled)
        yield
