"""Structure from motion by pycolmap, as a program of its own: strict first, then with loosened criteria from there on.

    python -m gnerf_ns.matching.reconstruction FOLDER

It is native code that may abort or hang, so that `matcher` runs it in a child process and reads what it leaves in the
folder. Lines on standard output say how far it is.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pycolmap
from jaxtyping import Float, Int

from gnerf_ns.matching.consistency import (
    CLEAR_SHARE,
    Overlap,
    Overlaps,
    contradictions,
    misplaced,
    overlaps_of_pairs,
    placed_otherwise,
    shows_no_motion,
)
from gnerf_ns.matching.job import IMAGES, MASKS, RESULT, Job, image_name
from gnerf_ns.matching.local_matches import Component, LocalMatches, PairMatches
from gnerf_ns.matching.pairs import every_pair, likely_pairs

IMAGES_PER_CALL = 8
PAIRS_PER_CALL = 200
"""Between two lines that say how far it is."""
EXHAUSTIVE_UP_TO = 200
"""More images than this are not all compared with each other."""

PEAK_THRESHOLD, EDGE_THRESHOLD, MAX_FEATURES = 0.002, 16.0, 6000
"""Of SIFT; more and fainter features than its own, since images are small and texture is thin."""


@dataclass(frozen=True)
class Criteria:
    """How sure matches and registered images have to be."""

    min_inliers: int = 15
    """Fewest matches of a pair."""
    max_error_px: float = 4.0
    """Largest distance from the epipolar line, and of a projected point from where it is seen."""
    is_loose: bool = False
    """Whether images may be registered by few points, seen at small angles."""


STRICT = Criteria()
# The error is what loosening must not touch: with 4 pixels for few inliers, images were put in wrong places.
LOOSE = Criteria(min_inliers=10, max_error_px=2.0, is_loose=True)

NEIGHBORLY = (
    Overlap(covered=0.9, tilt=1.35, count=15),
    Overlap(covered=0.85, tilt=1.6, count=15),
    Overlap(covered=0.75, tilt=1.6, count=15),
    Overlap(covered=0.65, tilt=2.0, count=15),
    Overlap(covered=0.5, tilt=2.0, count=15),
    Overlap(covered=0.4, tilt=2.0, count=15),
    Overlap(covered=0.3, tilt=2.5, count=15),
    Overlap(covered=0.3, tilt=2.5, count=10),
    Overlap(covered=0.0, tilt=math.inf, count=0),
)
"""What images that are matched have to have in common, at least (at most, the tilt), one step after the other, where
any matches at all have put images in places that their neighbors contradict. Of a milk carton (432 pairs that match,
more than half of them wrong) the first leaves 50 pairs, all of them right."""
LOOKALIKE = Overlap(covered=0.6, tilt=1.35, count=0)
"""Images that see a thing the same way, with less tilt, and have less in common, see two things that are alike."""
MOST_STEPS = 12
"""Reconstructions, at most, of images that matches put in places that their neighbors contradict."""
MISPLACED_COST = 5.0
"""An image that neighbors contradict counts as so many lost: others are wrong together with it."""


def reconstruct(folder: Path) -> LocalMatches:
    """Features, matches and cameras of the images in a folder."""
    job = Job.read(folder)
    pycolmap.set_random_seed(job.seed)
    features = folder / "features.db"
    _extract(job, folder, features)
    compares_all = job.num_images <= EXHAUSTIVE_UP_TO
    pairs = every_pair(job.num_images) if compares_all else likely_pairs(_descriptors(job, features), job.order)
    strict = _match(job, folder, features, pairs, STRICT)
    matches, overlaps = _verified(job, strict)
    if (
        compares_all and not job.has_masks and shows_no_motion(matches, None)
    ):  # nothing to begin with, which takes minutes to find out
        return _judged([], matches, overlaps)
    best = max(_map(job, folder, strict, STRICT), key=_size, default=None)
    if best is not None and _size(best) == job.num_images:
        found = _judged([best], matches, overlaps)
        if _is_clear(found):
            return found
    loose = _match(job, folder, features, pairs, LOOSE)
    matches, overlaps = _verified(job, loose)
    found = _judged(_completed(job, folder, loose, best), matches, overlaps)
    if _is_clear(found):
        return found
    careful = _by_neighbors(job, folder, loose, matches, overlaps)
    if not careful.components:
        return found
    better, worse = (careful, found) if _score(careful) >= _score(found) else (found, careful)
    # What two ways of putting images together agree on counts as right, although neighbors have little in common.
    otherwise = placed_otherwise(better.components[0], worse.components[0])
    unconfirmed = np.setdiff1d(better.misplaced, worse.components[0].image_indices)
    return replace(better, misplaced=np.union1d(otherwise, unconfirmed))


def _completed(job: Job, folder: Path, loose: Path, best: Optional[Any]) -> List[Any]:
    """Models, the largest first: what strict matches began, grown by loose ones, and those of what is left."""
    if best is None or _size(best) < job.num_images:
        grown = _map(job, folder, loose, LOOSE, best)
        best = max([*grown, *([] if best is None else [best])], key=_size, default=None)
    return _with_left(job, folder, loose, best)


def _by_neighbors(job: Job, folder: Path, loose: Path, matches: PairMatches, overlaps: Overlaps) -> LocalMatches:
    """Cameras from pairs that look alike all over, and from lesser ones as long as no neighbors contradict them.

    Matches of two images that came to stand side by side, but look alike only in part, are not used again.
    """
    left = {
        pair: overlap
        for pair, overlap in overlaps.items()
        if overlap.tilt > LOOKALIKE.tilt or overlap.covered >= LOOKALIKE.covered
    }
    best, database, so_far, steps = None, loose, 0, 0
    accepted: Tuple[Overlaps, Overlap] = left, NEIGHBORLY[-1]
    for least in NEIGHBORLY:
        while (best is None or _size(best) < job.num_images) and steps < MOST_STEPS:
            steps += 1
            database = _neighborly(job, loose, overlaps, left, least)
            grown = max(_map(job, folder, database, LOOSE, best), key=_size, default=None)
            if grown is None or (best is not None and _size(grown) <= _size(best)):
                break
            component = _components([grown])[0]
            contradicted = len(misplaced(component, overlaps))
            added = _size(grown) - (0 if best is None else _size(best))
            if contradicted <= so_far + CLEAR_SHARE * added:
                best, accepted, so_far = grown, (left, least), contradicted
                break
            wrong = component.image_indices[contradictions(component, overlaps)]
            wrong = set(map(tuple, np.sort(wrong, axis=1).tolist()))
            if not any(pair in left and _has(left[pair], least) for pair in wrong):
                steps = MOST_STEPS  # the same would come out, and lesser pairs only add to it
                break
            left = {pair: overlap for pair, overlap in left.items() if pair not in wrong}
    if best is not None and _size(best) < job.num_images:
        database = _neighborly(job, loose, overlaps, *accepted)
    return _judged(_with_left(job, folder, database, best), matches, overlaps)


def _has(overlap: Overlap, least: Overlap) -> bool:
    """Whether images have so much in common."""
    return overlap.covered >= least.covered and overlap.tilt <= least.tilt and overlap.count >= least.count


def _with_left(job: Job, folder: Path, database: Path, model: Optional[Any]) -> List[Any]:
    """A model, and those of the images that it does not have."""
    if model is None:
        return []
    left = sorted(set(range(job.num_images)) - set(_registered(model)))
    return [model, *(_map(job, folder, database, LOOSE, among=left) if len(left) >= 3 else [])]


def _judged(models: List[Any], matches: PairMatches, overlaps: Overlaps) -> LocalMatches:
    """What was found, with those images named that their neighbors contradict."""
    components = _components(models)
    nothing = np.zeros(0, dtype=np.int64)
    contradicted = components[0].image_indices[misplaced(components[0], overlaps)] if components else nothing
    return LocalMatches(components, matches, contradicted)


def _is_clear(found: LocalMatches) -> bool:
    return not found.components or len(found.misplaced) <= CLEAR_SHARE * len(found.components[0])


def _score(found: LocalMatches) -> float:
    return (len(found.components[0]) if found.components else 0) - MISPLACED_COST * len(found.misplaced)


def _size(model: Any) -> int:
    return model.num_reg_images()


def _say(stage: str, done: int, total: int) -> None:
    print(f"{stage} {done} {total}", flush=True)


def _extract(job: Job, folder: Path, database: Path) -> None:
    """Features of all images into a new database."""
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads, options.use_gpu = job.num_threads, False
    options.sift.peak_threshold, options.sift.edge_threshold = PEAK_THRESHOLD, EDGE_THRESHOLD
    options.sift.max_num_features = MAX_FEATURES
    done = 0
    for group in job.groups:
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = group.model
        reader.camera_params = ",".join(map(repr, group.parameters))
        if job.has_masks:
            reader.mask_path = folder / MASKS
        for start in range(0, len(group.images), IMAGES_PER_CALL):
            chosen = group.images[start : start + IMAGES_PER_CALL]
            pycolmap.extract_features(
                database,
                folder / IMAGES,
                image_names=[image_name(index) for index in chosen],
                camera_mode=pycolmap.CameraMode.SINGLE,
                reader_options=reader,
                extraction_options=options,
                device=pycolmap.Device.cpu,
            )
            if start == 0:  # the rest of the group has the camera that was made for its first images
                reader.existing_camera_id = _camera_of(database, chosen[0])
            done += len(chosen)
            _say("features", done, job.num_images)


def _camera_of(database: Path, index: int) -> int:
    with closing(pycolmap.Database.open(database)) as opened:
        return int(_image(opened, index).camera_id)


def _image(database: Any, index: int) -> Any:
    """The database's entry of an image."""
    return database.read_image_with_name(image_name(index))


def _descriptors(job: Job, database: Path) -> List[Float[np.ndarray, "_ 128"]]:
    with closing(pycolmap.Database.open(database)) as opened:
        ids = [_image(opened, index).image_id for index in range(job.num_images)]
        return [np.asarray(getattr(opened.read_descriptors(each), "data", None), dtype=np.float32) for each in ids]


def _match(job: Job, folder: Path, features: Path, pairs: Int[np.ndarray, "pairs 2"], criteria: Criteria) -> Path:
    """Matches of pairs of images, in a copy of the database of features."""
    name = "loose" if criteria.is_loose else "strict"
    database = folder / f"{name}.db"
    shutil.copy(features, database)
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads, matching.use_gpu = job.num_threads, False
    verification = pycolmap.TwoViewGeometryOptions()
    verification.min_num_inliers, verification.ransac.max_error = criteria.min_inliers, criteria.max_error_px
    verification.ransac.random_seed = job.seed
    listed = folder / "pairs.txt"
    for start in range(0, len(pairs), PAIRS_PER_CALL):
        chosen = pairs[start : start + PAIRS_PER_CALL]
        listed.write_text("\n".join(f"{image_name(i)} {image_name(j)}" for i, j in chosen))
        pairing = pycolmap.ImportedPairingOptions()
        pairing.match_list_path = listed
        pycolmap.match_image_pairs(
            database,
            matching_options=matching,
            pairing_options=pairing,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )
        _say(f"{name}-matches", start + len(chosen), len(pairs))
    return database


def _neighborly(job: Job, database: Path, overlaps: Overlaps, left: Overlaps, least: Overlap) -> Path:
    """A copy of a database of matches, in place of the last such, that has only those pairs left that have so much in
    common."""
    copy = database.with_name(f"{database.stem}-neighbors.db")
    shutil.copy(database, copy)
    with closing(pycolmap.Database.open(copy)) as opened:
        ids = [_image(opened, index).image_id for index in range(job.num_images)]
        for pair in overlaps:
            if pair not in left or not _has(left[pair], least):
                opened.delete_inlier_matches(ids[pair[0]], ids[pair[1]])
    return copy


def _map(
    job: Job,
    folder: Path,
    database: Path,
    criteria: Criteria,
    begun: Optional[Any] = None,
    among: Optional[Sequence[int]] = None,
) -> List[Any]:
    """Reconstructions from matches, beginning with an earlier one, or of some images alone."""
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed, options.extract_colors = job.num_threads, job.seed, False
    options.constant_cameras = {
        _camera_of(database, group.images[0]) for group in job.groups if group.is_known and group.images
    }
    mapper = options.mapper
    if criteria.is_loose:
        options.min_num_matches, options.min_model_size = criteria.min_inliers, 3
        mapper.abs_pose_min_num_inliers, mapper.abs_pose_min_inlier_ratio = criteria.min_inliers, 0.15
        mapper.init_min_num_inliers, mapper.init_min_tri_angle = 25, 8.0
        mapper.filter_max_reproj_error = criteria.max_error_px
        mapper.abs_pose_max_error = max(4.0, 2.0 * criteria.max_error_px)
    start: str = ""
    if begun is not None:
        options.multiple_models = False
        start = tempfile.mkdtemp(prefix="begun-", dir=folder)
        begun.write(start)
    if among is not None:
        options.image_names = [image_name(index) for index in among]
    output = folder / f"models-{len(list(folder.glob('models-*')))}"
    output.mkdir()
    done = [0 if begun is None else begun.num_reg_images()]

    def registered() -> None:
        done[0] += 1
        _say("cameras", done[0], job.num_images)

    models = pycolmap.incremental_mapping(
        database,
        folder / IMAGES,
        output,
        options,
        input_path=start,
        initial_image_pair_callback=registered,
        next_image_callback=registered,
    )
    return list(models.values())


def _registered(model: Any) -> List[int]:
    return [int(Path(model.images[image_id].name).stem) for image_id in model.reg_image_ids()]


def _components(models: List[Any]) -> List[Component]:
    """Of reconstructions, largest first; an image that is in two of them belongs to the larger one."""
    taken: set[int] = set()
    components = []
    for model in sorted(models, key=lambda each: -each.num_reg_images()):
        registered = zip(_registered(model), model.reg_image_ids(), strict=True)
        kept = sorted((index, image_id) for index, image_id in registered if index not in taken)
        if len(kept) >= 3:
            taken.update(index for index, _ in kept)
            components.append(_component(model, kept))
    return components


def _component(model: Any, kept: List[Tuple[int, int]]) -> Component:
    point_ids = sorted(model.point3D_ids())
    row_of = {point_id: row for row, point_id in enumerate(point_ids)}
    poses, focal, center, distortion = [], [], [], []
    seen_by, seen_point, seen_at = [], [], []
    for row, (_, image_id) in enumerate(kept):
        image = model.images[image_id]
        camera = model.cameras[image.camera_id]
        size = np.array([camera.width, camera.height], dtype=np.float64)
        poses.append(_camera_to_world(np.asarray(image.cam_from_world().matrix())))
        lens = _lens(camera.model_name, np.asarray(camera.params, dtype=np.float64))
        focal.append(lens[:2] / camera.width)
        center.append(lens[2:4] / size)
        distortion.append(lens[4:])
        for seen in image.get_observation_points2D():
            seen_by.append(row)
            seen_point.append(row_of[seen.point3D_id])
            seen_at.append(np.asarray(seen.xy) / size)
    return Component(
        image_indices=np.array([index for index, _ in kept], dtype=np.int64),
        camera_to_worlds=np.stack(poses).astype(np.float64),
        focal=np.stack(focal),
        center=np.stack(center),
        distortion=np.stack(distortion),
        points=np.array([model.points3D[each].xyz for each in point_ids], dtype=np.float64).reshape(-1, 3),
        seen_by=np.array(seen_by, dtype=np.int64),
        seen_point=np.array(seen_point, dtype=np.int64),
        seen_at=np.array(seen_at, dtype=np.float64).reshape(-1, 2),
        error_px=np.array(model.compute_mean_reprojection_error(), dtype=np.float64),
    )


def _camera_to_world(world_to_camera: Float[np.ndarray, "3 4"]) -> Float[np.ndarray, "3 4"]:
    """In nerfstudio's axes (y up, looking along -z), of a matrix in COLMAP's (y down, looking along +z)."""
    rotation = world_to_camera[:, :3].T
    position = -rotation @ world_to_camera[:, 3:]
    return np.concatenate([rotation * np.array([1.0, -1.0, -1.0]), position], axis=1)


def _lens(model: str, parameters: Float[np.ndarray, "parameters"]) -> Float[np.ndarray, "10"]:
    """Focal lengths, principal point and nerfstudio's distortion of a COLMAP camera."""
    lens = np.zeros(10)
    if model == "SIMPLE_RADIAL":
        lens[[0, 1, 2, 3, 4]] = parameters[[0, 0, 1, 2, 3]]
    elif model == "PINHOLE":
        lens[:4] = parameters
    elif model == "OPENCV":
        lens[[0, 1, 2, 3, 4, 5, 8, 9]] = parameters
    elif model == "FULL_OPENCV":
        lens[[0, 1, 2, 3, 4, 5, 8, 9, 6]] = parameters[:9]
    elif model == "OPENCV_FISHEYE":
        lens[:8] = parameters
    else:
        raise ValueError(f"camera model {model}")
    return lens


def _verified(job: Job, database: Path) -> Tuple[PairMatches, Overlaps]:
    """Matches that fit one relative pose of the two cameras, of all pairs, and what these have in common."""
    with closing(pycolmap.Database.open(database)) as opened:
        images = {_image(opened, index).image_id: index for index in range(job.num_images)}
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        keypoints: Dict[int, np.ndarray] = {}
        aspects = np.ones(job.num_images)
        for image in opened.read_all_images():
            camera = cameras[image.camera_id]
            size = np.array([camera.width, camera.height])
            keypoints[image.image_id] = np.asarray(opened.read_keypoints(image.image_id))[:, :2] / size
            aspects[images[image.image_id]] = camera.width / camera.height
        pairs, points = [], []
        for pair_id, geometry in zip(*opened.read_two_view_geometries(), strict=True):
            inliers = np.asarray(geometry.inlier_matches).reshape(-1, 2)
            if len(inliers) == 0:
                continue
            one, other = pycolmap.pair_id_to_image_pair(pair_id)
            pairs.append((images[one], images[other]))
            points.append(np.concatenate([keypoints[one][inliers[:, 0]], keypoints[other][inliers[:, 1]]], axis=1))
    _say("overlaps", 0, len(pairs))
    matches = PairMatches(
        np.array(pairs, dtype=np.int64).reshape(-1, 2),
        np.cumsum([len(each) for each in points], dtype=np.int64),
        np.concatenate([np.zeros((0, 4)), *points]).astype(np.float32),
    )
    return matches, overlaps_of_pairs(matches, aspects)


if __name__ == "__main__":
    at = Path(sys.argv[1])
    reconstruct(at).save(at / RESULT)
