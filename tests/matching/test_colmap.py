"""Structure from motion on pictures of a known scene: poses, lens, points and pairs are right."""

import json
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import pytest
import torch

from gnerf_ns.cameras.alignment import pose_errors
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.data.images import ImageSize
from gnerf_ns.data.intrinsics import Intrinsics, focal_from_fov
from gnerf_ns.demo.scene import ProceduralSceneConfig, render_procedural_scene
from gnerf_ns.matching.colmap import LOOSE, STRICT, Colmap
from gnerf_ns.matching.job import Job
from gnerf_ns.matching.local_matches import Component, LocalMatches, PairMatches
from gnerf_ns.matching.matcher import MatchedImages, _lay_out, camera_groups, match_images
from gnerf_ns.matching.pairs import every_pair

SIDE, COUNT, FOV_DEG = 200, 14, 40.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Neighboring views of the island, from one side."""
    folder = tmp_path_factory.mktemp("island")
    prior = PosePriorConfig(azimuth_deg=(0.0, 50.0), elevation_deg=(30.0, 50.0), radius=(0.9, 1.1), look_at_jitter=0.03)
    config = ProceduralSceneConfig(
        num_train=COUNT, num_test=1, image_side=SIDE, fov_deg=FOV_DEG, cameras=prior, samples_per_side=3
    )
    render_procedural_scene(folder, config)
    return folder


def given(scene: Path, is_lens_known: bool, fov_deg: float = FOV_DEG) -> MatchedImages:
    focal = focal_from_fov(fov_deg, SIDE)
    lens = Intrinsics(ImageSize(SIDE, SIDE), (focal, focal), (SIDE / 2, SIDE / 2))
    files = sorted((scene / "images").glob("*.png"))
    return MatchedImages(files, None, {}, [lens] * len(files), is_lens_known)


def found(images: MatchedImages) -> LocalMatches:
    matches = match_images(images)
    assert matches is not None
    return matches


def errors_deg(component: Component, scene: Path) -> Dict[str, float]:
    frames = json.loads((scene / "transforms_train.json").read_text())["frames"]
    truth = torch.tensor([frame["transform_matrix"] for frame in frames])[component.image_indices, :3]
    return pose_errors(torch.from_numpy(component.camera_to_worlds).float(), truth).summary()


@pytest.mark.parametrize("is_lens_known", [True, False])
def test_cameras_and_lens(scene: Path, is_lens_known: bool):
    matches = found(given(scene, is_lens_known))
    (component,) = matches.components
    assert component.image_indices.tolist() == list(range(COUNT))
    errors = errors_deg(component, scene)
    assert errors["rotation_error_deg_median"] < 0.7 and errors["rotation_error_deg_max"] < 4.0
    focal = focal_from_fov(FOV_DEG, SIDE) / SIDE
    np.testing.assert_allclose(component.focal, focal, rtol=1e-6 if is_lens_known else 0.1)
    assert bool(component.distortion.any()) != is_lens_known


def test_points_project_to_where_they_are_seen(scene: Path):
    (component,) = found(given(scene, True)).components
    poses = component.camera_to_worlds[component.seen_by]
    offsets = component.points[component.seen_point] - poses[..., 3]
    local = np.einsum("nij,ni->nj", poses[..., :3], offsets)
    assert (local[:, 2] < 0).all()
    focal, center = component.focal[component.seen_by, 0], component.center[component.seen_by]
    projected = focal[:, None] * local[:, :2] * [1, -1] / -local[:, 2:] + center
    distances = np.linalg.norm(projected - component.seen_at, axis=1) * SIDE
    assert np.median(distances) < 0.7 and distances.mean() == pytest.approx(float(component.error_px), rel=0.3)


def extracted(scene: Path, folder: Path) -> Colmap:
    """With features of all images."""
    sizes, has_masks = _lay_out(given(scene, True), folder, lambda *said: None)
    groups = camera_groups(given(scene, True), sizes)
    colmap = Colmap(Job(COUNT, groups, has_masks, list(range(COUNT)), 1, 0), folder)
    colmap.extract()
    return colmap


def test_pairs_that_are_matched_anew_replace_those_of_before(scene: Path, tmp_path: Path):
    colmap = extracted(scene, tmp_path)
    pairs = every_pair(COUNT)
    strict, loose = colmap.match(pairs, STRICT).matches, colmap.match(pairs, LOOSE).matches
    of_last = pairs[(pairs == COUNT - 1).any(axis=1)]
    both = colmap.match(of_last, LOOSE, beside=colmap.match(pairs, STRICT)).matches

    def points(matches: PairMatches, with_last: bool) -> Dict[Tuple[int, ...], List[List[float]]]:
        found = zip(map(tuple, matches.pairs.tolist()), matches.of_pairs, strict=True)
        return {pair: sorted(each.tolist()) for pair, each in found if (COUNT - 1 in pair) == with_last}

    assert points(both, False) == points(strict, False) and points(both, True).keys() == points(loose, True).keys()
    assert points(loose, True) != points(strict, True)


def test_more_pairs_are_matched_beside_those_of_before(scene: Path, tmp_path: Path):
    """In the same database, and in any order of the two images."""
    colmap = extracted(scene, tmp_path)
    pairs = every_pair(COUNT)
    of_last = (pairs == COUNT - 1).any(axis=1)
    first = colmap.match(pairs[~of_last], STRICT)
    more = colmap.match(pairs[of_last][:, ::-1], STRICT, beside=first)
    whole = colmap.match(pairs, STRICT)
    assert first.compared == set(map(tuple, pairs[~of_last].tolist()))
    assert more.compared == whole.compared == set(map(tuple, pairs.tolist()))
    assert more.overlaps.keys() == whole.overlaps.keys() > first.overlaps.keys()


def test_matched_points_lie_inside_the_masks(scene: Path):
    from PIL import Image

    images = given(scene, True)
    matches = found(images).matches
    assert len(matches.pairs) > COUNT and matches.ends[-1] == len(matches.points)
    first_pair = matches.points[: matches.ends[0]]
    for image, points in zip(matches.pairs[0], (first_pair[:, :2], first_pair[:, 2:]), strict=True):
        alpha = np.array(Image.open(images.files[image]))[..., 3]
        columns, rows = np.clip((points * SIDE).astype(int), 0, SIDE - 1).T
        assert (alpha[rows, columns] >= 128).mean() > 0.97
