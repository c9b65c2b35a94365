"""What is said of each pose: right ones are no doubt, wrong ones are named, and a bad field is called one."""

import math
from pathlib import Path

import pytest
import roma
import torch
from analytic_scene import Blobs, Nothing, image_set_of, model_of, random_poses
from torch import Tensor

from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.pose_search.costs import ImageCosts
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.training.confidence import Confidence
from gnerf_ns.training.placement import PoseOrigin
from gnerf_ns.training.pose_status import (
    DOUBTFUL_SHARE,
    DOUBTFUL_SHARE_ALONE,
    SHOWN_ELSEWHERE,
    PoseStatus,
    knows_by_heart,
    pose_statuses,
    sentences,
    shows_many_elsewhere,
    sides_are_alike,
    without_the_field,
)
from gnerf_ns.training.trust import Evidence, verdict_of

FILES = [Path(f"{number}.png") for number in range(8)]
ORIGINS = torch.tensor([PoseOrigin.MATCHES] * 6 + [PoseOrigin.LOOKED_UP, PoseOrigin.APPEARANCE])


def statuses_at(poses: Tensor, model: GNeRFModel, origins: Tensor = ORIGINS) -> list[PoseStatus]:
    images = image_set_of(model_of(Blobs()), random_poses(8))
    costs = ImageCosts(ImageRenderer(model), model.evaluation_background)
    return pose_statuses(costs, images, poses, origins, nothing_known(poses), sides_are_alike(origins))


def nothing_known(poses: Tensor) -> Confidence:
    """No alternative, and no idea how far poses may be off."""
    unknown = torch.full((len(poses),), torch.nan)
    return Confidence(unknown, unknown, poses, torch.zeros(len(poses), dtype=torch.bool))


def test_right_poses_are_no_doubt():
    statuses = statuses_at(random_poses(8), model_of(Blobs()))
    assert all(status.explained > 0.99 and not status.is_flagged for status in statuses)
    assert sentences(statuses, FILES) == [
        "8 images: 6 placed by local matches, 1 looked up in the field, 1 placed by what they look like."
    ]
    assert statuses[6].entries == {
        "pose_from": "looked up",
        "explained": 1.0,
        "rotation_sigma_deg": None,
        "translation_sigma_relative": None,
        "alternative_probability": 0.0,
        "flagged": False,
    }


def test_a_wrong_pose_is_named():
    poses = random_poses(8)
    poses[2] = random_poses(9, seed=5)[8]
    statuses = statuses_at(poses, model_of(Blobs()))
    assert [status.is_flagged for status in statuses] == [index == 2 for index in range(8)]
    assert sentences(statuses, FILES)[1].startswith("Flagged") and sentences(statuses, FILES)[1].endswith(": 2.png.")


def test_less_is_flagged_where_nothing_but_the_field_speaks_for_a_pose():
    poses = random_poses(8)
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.0, 0.165]))
    poses[[5, 6]] = turn @ poses[[5, 6]]
    statuses = statuses_at(poses, model_of(Blobs()))
    unexplained = [1.0 - statuses[index].explained for index in (5, 6)]
    assert all(DOUBTFUL_SHARE_ALONE < share < DOUBTFUL_SHARE for share in unexplained), unexplained
    assert [status.is_flagged for status in statuses] == [index == 6 for index in range(8)]


def test_a_group_that_may_stand_elsewhere_is_in_doubt_however_well_it_is_shown():
    origins = torch.tensor([PoseOrigin.MATCHES] * 5 + [PoseOrigin.GROUP] + [PoseOrigin.DOUBTFUL_GROUP] * 2)
    statuses = statuses_at(random_poses(8), model_of(Blobs()), origins)
    assert [status.is_flagged for status in statuses] == [False] * 6 + [True] * 2


def test_a_field_that_shows_nothing_is_not_trusted():
    statuses = statuses_at(random_poses(8), model_of(Nothing()))
    assert all(status.is_flagged for status in statuses)
    assert "do not trust them" in sentences(statuses, FILES)[1]


def test_where_sides_are_alike_what_was_looked_up_is_in_doubt():
    """However well the field shows it: it may show it as well from the other side."""
    origins = torch.tensor([PoseOrigin.DOUBTFUL_MATCHES] * 6 + [PoseOrigin.LOOKED_UP, PoseOrigin.MATCHES])
    statuses = statuses_at(random_poses(8), model_of(Blobs()), origins)
    assert [status.is_flagged for status in statuses] == [False] * 6 + [True, False]
    assert sentences(statuses, FILES)[1].endswith("6.png.")


def test_an_image_that_is_shown_as_well_from_elsewhere_is_in_doubt_unless_matches_speak_for_its_pose():
    origins = torch.tensor([PoseOrigin.DOUBTFUL_MATCHES] * 3 + [PoseOrigin.APPEARANCE] * 2 + [PoseOrigin.MATCHES] * 3)
    poses, turned = random_poses(8), random_poses(8, seed=3)
    images = image_set_of(model_of(Blobs()), poses)
    # The scene is as new, and half of the images have an alternative in it that is as good.
    alternatives = torch.where((torch.arange(8) % 2 == 0)[:, None, None], poses, turned)
    unknown = torch.full((8,), torch.nan)
    confidence = Confidence(unknown, unknown, alternatives, torch.ones(8, dtype=torch.bool))
    costs = ImageCosts(ImageRenderer(model_of(Blobs())), torch.ones(3))
    statuses = pose_statuses(costs, images, poses, origins, confidence)
    assert [status.is_flagged for status in statuses] == [True, False, True, False, True, False, False, False]
    probabilities = [status.alternative_probability for status in statuses]
    assert probabilities[0] > probabilities[4] > 0.5 > probabilities[6] > 0.05 and max(probabilities[1::2]) < 1e-3
    torch.testing.assert_close(statuses[1].alternative, turned[1])


@pytest.mark.parametrize(("sigma", "is_flagged"), [(0.2, False), (3.0, False), (6.0, True), (torch.nan, False)])
def test_an_image_that_may_be_off_by_degrees_is_in_doubt(sigma: float, is_flagged: bool):
    poses = random_poses(8)
    model = model_of(Blobs())
    sigmas = torch.full((8,), sigma)
    confidence = Confidence(sigmas, 0.01 * sigmas, poses, torch.zeros(8, dtype=torch.bool))
    costs = ImageCosts(ImageRenderer(model), model.evaluation_background)
    statuses = pose_statuses(costs, image_set_of(model, poses), poses, ORIGINS, confidence)
    assert all(status.is_flagged == is_flagged for status in statuses)


def test_a_field_that_does_not_tell_places_apart_is_not_trusted():
    def alike(probability: float) -> list[PoseStatus]:
        return [PoseStatus(PoseOrigin.APPEARANCE, 0.9, False, 0.1, 0.001, probability)] * 8

    assert shows_many_elsewhere(alike(0.3)) and not shows_many_elsewhere(alike(0.05))
    assert not shows_many_elsewhere([PoseStatus(PoseOrigin.APPEARANCE, 0.9, False)])
    assert SHOWN_ELSEWHERE in sentences(alike(0.3), FILES) and len(sentences(alike(0.05), FILES)) == 1


def test_a_field_that_knows_its_images_by_heart_is_not_trusted():
    def explaining(share: float) -> list[PoseStatus]:
        return [PoseStatus(PoseOrigin.APPEARANCE, share, False)] * 8

    assert "by heart" in sentences(explaining(0.97), FILES, explaining(0.64))[-1]
    matched = [PoseStatus(PoseOrigin.MATCHES, 0.97, False)] * 8
    assert "may be right all the same" in sentences(matched, FILES, explaining(0.64))[-1]
    assert "may be right" not in sentences(explaining(0.97), FILES, explaining(0.64))[-1]
    doubted = without_the_field(explaining(0.97))
    said = sentences(doubted, FILES, explaining(0.64))
    assert "by heart" in said[1] and "nothing but that field speaks for them: 0.png" in said[2]
    for held_out in (explaining(0.91), []):
        assert len(sentences(explaining(0.97), FILES, held_out)) == 1
    assert len(sentences(explaining(0.8), FILES, explaining(0.7))) == 1  # noisy images, all of them


@pytest.mark.parametrize(
    ("explained", "elsewhere", "expected"),
    [(0.90, 0.17, True), (0.90, 0.05, False), (0.95, 0.17, False), (0.90, math.nan, False)],
)
def test_held_out_images_that_are_shown_worse_and_from_anywhere_give_a_field_away(explained, elsewhere, expected):
    """As of a dozen images whose poses were bent as a whole: none of them looked wrong."""
    trained = [PoseStatus(PoseOrigin.APPEARANCE, 0.97, False, 0.4, 0.01, 0.001)] * 12
    held_out = [PoseStatus(PoseOrigin.LOOKED_UP, explained, False, 0.5, 0.01, elsewhere)] * 8
    assert knows_by_heart(trained, held_out) == expected
    assert (verdict_of(trained, held_out, Evidence(False)).level == "doubtful") == expected


def test_what_matches_say_does_not_depend_on_the_field():
    statuses = [PoseStatus(origin, 0.9, False) for origin in PoseOrigin]
    doubtful = {status.origin for status in without_the_field(statuses) if status.is_flagged}
    assert doubtful == {PoseOrigin.APPEARANCE, PoseOrigin.LOOKED_UP, PoseOrigin.GROUP, PoseOrigin.DOUBTFUL_GROUP}


@pytest.mark.parametrize(
    ("usual", "mine", "origin", "is_flagged"),
    [
        (0.3, 1.2, PoseOrigin.APPEARANCE, True),
        (0.3, 1.2, PoseOrigin.LOOKED_UP, True),
        (0.3, 1.2, PoseOrigin.MATCHES, False),
        (0.3, 0.8, PoseOrigin.APPEARANCE, False),
        (0.1, 0.4, PoseOrigin.APPEARANCE, False),
    ],
)
def test_an_image_that_is_alone_on_its_side_is_flagged(usual: float, mine: float, origin: PoseOrigin, is_flagged: bool):
    """However well it is shown from where it is; not if matches have placed it, or if it is known to half a degree."""
    poses, model = random_poses(8), model_of(Blobs())
    sigmas, origins = torch.full((8,), usual), torch.full((8,), int(PoseOrigin.APPEARANCE))
    sigmas[3], origins[3] = mine, origin
    confidence = Confidence(sigmas, 0.01 * sigmas, poses, torch.zeros(8, dtype=torch.bool))
    costs = ImageCosts(ImageRenderer(model), model.evaluation_background)
    statuses = pose_statuses(costs, image_set_of(model, poses), poses, origins, confidence)
    assert [status.is_flagged for status in statuses] == [is_flagged and index == 3 for index in range(8)]
    assert (statuses[3].alternative_probability >= 0.5) == is_flagged
    assert not shows_many_elsewhere(statuses)
