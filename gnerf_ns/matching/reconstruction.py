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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pycolmap
from jaxtyping import Float, Int

from gnerf_ns.matching.consistency import coverage_of_pairs, misplaced
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

COVERAGES = (0.0, 0.65, 0.5, 0.55)
"""How much of what either image shows the first matches are to cover (`consistency`), tried one after the other until
neighbors look alike all over. None of them is right for every object."""
CLEAR_SHARE = 0.025
"""Share of the images that neighbors may contradict: so many are among right ones, too."""
MISPLACED_COST = 5.0
"""An image that neighbors contradict counts as so many lost: others are wrong together with it."""


def reconstruct(folder: Path) -> LocalMatches:
    """Features, matches and cameras of the images in a folder."""
    job = Job.read(folder)
    pycolmap.set_random_seed(job.seed)
    features = folder / "features.db"
    _extract(job, folder, features)
    if job.num_images <= EXHAUSTIVE_UP_TO:
        pairs = every_pair(job.num_images)
    else:
        pairs = likely_pairs(_descriptors(job, features), job.order)
    matched = {STRICT: _match(job, folder, features, pairs, STRICT)}
    best, best_score = None, -math.inf
    for covered in COVERAGES:
        components = _components(_reconstruct(job, folder, features, pairs, matched, covered))
        matches = _verified(job, matched.get(LOOSE, matched[STRICT]))
        if best is None:
            best = LocalMatches(components, matches, np.zeros(0, dtype=np.int64))
        if components:
            rows = misplaced(components[0], coverage_of_pairs(matches))
            score = len(components[0]) - MISPLACED_COST * len(rows)
            if score > best_score:
                best_score = score
                best = LocalMatches(components, matches, components[0].image_indices[np.array(rows, dtype=np.int64)])
        if len(best.misplaced) <= CLEAR_SHARE * job.num_images:
            break
    assert best is not None
    return best


def _reconstruct(
    job: Job,
    folder: Path,
    features: Path,
    pairs: Int[np.ndarray, "pairs 2"],
    matched: Dict[Criteria, Path],
    covered: float,
) -> List[Any]:
    """Models, the largest first: by strict criteria, by loose ones from there on, and of what is left by itself.

    Args:
        job: what is to be done.
        folder: where it is done.
        features: database of the features.
        pairs: which images are compared.
        matched: databases of matches; one that is wanted and missing is made.
        covered: how much of what either image shows matches have to cover at first; 0 for any.
    """
    stages = [(STRICT, covered), (LOOSE, 0.0)]
    if covered > 0.0:
        stages[1:1] = [(LOOSE, covered - 0.1), (LOOSE, covered / 2)]
    best = None
    for criteria, least in stages:
        if best is not None and best.num_reg_images() == job.num_images:
            return [best]
        if criteria not in matched:
            matched[criteria] = _match(job, folder, features, pairs, criteria)
        found = _map(job, folder, _covering(job, matched[criteria], least), criteria, best)
        largest = max(found, key=lambda model: model.num_reg_images(), default=None)
        if largest is not None and (best is None or largest.num_reg_images() >= best.num_reg_images()):
            best = largest
    if best is None:
        return []
    left = sorted(set(range(job.num_images)) - set(_registered(best)))
    return [best, *(_map(job, folder, matched[LOOSE], LOOSE, among=left) if len(left) >= 3 else [])]


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


def _covering(job: Job, database: Path, least: float) -> Path:
    """A copy of a database of matches that has only those pairs that cover so much; itself for 0."""
    if least <= 0.0:
        return database
    shares = coverage_of_pairs(_verified(job, database))
    copy = database.with_name(f"{database.stem}-{least:.2f}.db")
    shutil.copy(database, copy)
    with closing(pycolmap.Database.open(copy)) as opened:
        ids = [_image(opened, index).image_id for index in range(job.num_images)]
        for (one, other), share in shares.items():
            if share < least:
                opened.delete_inlier_matches(ids[one], ids[other])
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


def _verified(job: Job, database: Path) -> PairMatches:
    with closing(pycolmap.Database.open(database)) as opened:
        images = {_image(opened, index).image_id: index for index in range(job.num_images)}
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        keypoints: Dict[int, np.ndarray] = {}
        for image in opened.read_all_images():
            camera = cameras[image.camera_id]
            size = np.array([camera.width, camera.height])
            keypoints[image.image_id] = np.asarray(opened.read_keypoints(image.image_id))[:, :2] / size
        pairs, points = [], []
        for pair_id, geometry in zip(*opened.read_two_view_geometries(), strict=True):
            inliers = np.asarray(geometry.inlier_matches).reshape(-1, 2)
            if len(inliers) == 0:
                continue
            one, other = pycolmap.pair_id_to_image_pair(pair_id)
            pairs.append((images[one], images[other]))
            points.append(np.concatenate([keypoints[one][inliers[:, 0]], keypoints[other][inliers[:, 1]]], axis=1))
    return PairMatches(
        np.array(pairs, dtype=np.int64).reshape(-1, 2),
        np.cumsum([len(each) for each in points], dtype=np.int64),
        np.concatenate([np.zeros((0, 4)), *points]).astype(np.float32),
    )


if __name__ == "__main__":
    at = Path(sys.argv[1])
    reconstruct(at).save(at / RESULT)
