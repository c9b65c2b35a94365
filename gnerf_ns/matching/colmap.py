"""pycolmap at work on a folder of images: features, matches of pairs, cameras.

What is done with these, and in which order, is told in `reconstruction`.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import AbstractSet, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pycolmap
from jaxtyping import Float, Int

from gnerf_ns.matching.consistency import Overlaps, overlaps_of_pairs
from gnerf_ns.matching.job import IMAGES, MASKS, Job, image_name
from gnerf_ns.matching.local_matches import Component, PairMatches

IMAGES_PER_CALL = 8
PAIRS_PER_CALL = 200
"""Between two lines that say how far it is."""

PEAK_THRESHOLD, EDGE_THRESHOLD, MAX_FEATURES = 0.002, 16.0, 6000
"""Of SIFT; more and fainter features than its own, since images are small and texture is thin."""

MANY_IMAGES, RARER_ADJUSTMENT, ADJUSTMENT_STEPS, ADJUSTMENTS = 200, 1.5, 20, 2
"""Cameras of more images than this are adjusted all together when so many times as many are there as the last time,
not 1.1 times, in so many steps and so often, not in 50 and five times: 408 took 13 s in place of 193 and came out as
good, 2008 took 185, and before one adjustment of 709 had not ended after six minutes. Of 125 it saves a second, and one
was put 63 degrees off."""


@dataclass(frozen=True)
class Criteria:
    """How sure matches and registered images have to be."""

    min_inliers: int = 15
    """Fewest matches of a pair."""
    max_error_px: float = 4.0
    """Largest distance from the epipolar line, and of a projected point from where it is seen."""
    min_points: int = 30
    """An image is registered by no fewer points,"""
    min_point_share: float = 0.25
    """and by no smaller share of those that it is matched with."""
    is_loose: bool = False
    """Whether models may be small, and begin with few points that are seen at small angles."""


STRICT = Criteria()
# The error is what loosening must not touch: with 4 pixels for few inliers, images were put in wrong places.
LOOSE = Criteria(min_inliers=10, max_error_px=2.0, min_points=10, min_point_share=0.15, is_loose=True)
# For images that would have no place: few points, but most of those that are matched. (Lego at 100 pixels: 92 of 100 in
# one model in place of 46 and 43, none of them wrong.)
FAINT = replace(LOOSE, min_points=6, min_point_share=0.5)


@dataclass(frozen=True)
class MatchedPairs:
    """Pairs of images that were matched."""

    database: Path
    """Where pycolmap has them."""
    criteria: Criteria
    """How sure they are."""
    matches: PairMatches
    """Those that fit one relative pose of the two cameras."""
    overlaps: Overlaps
    """What the images of each pair have in common."""
    compared: AbstractSet[Tuple[int, int]]
    """All pairs that were compared, those that do not match as well; the smaller index first."""


@dataclass(frozen=True)
class Model:
    """Cameras and points that were put together, as a whole."""

    component: Component
    """These."""
    reconstruction: Any
    """As pycolmap has them, to go on from."""

    def __len__(self) -> int:
        return len(self.component)


class Colmap:
    """Databases of features and matches in a folder, and cameras that are found from them.

    Lines on standard output say how far each call is.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        """
        Args:
            job: what is known of the images.
            folder: where these are, and where databases and models are kept.
        """
        self.job = job
        self._folder = folder
        self._features = folder / "features.db"
        pycolmap.set_random_seed(job.seed)

    def extract(self) -> None:
        """Find features of all images."""
        options = pycolmap.FeatureExtractionOptions()
        options.num_threads, options.use_gpu = self.job.num_threads, False
        options.sift.peak_threshold, options.sift.edge_threshold = PEAK_THRESHOLD, EDGE_THRESHOLD
        options.sift.max_num_features = MAX_FEATURES
        done = 0
        for group in self.job.groups:
            reader = pycolmap.ImageReaderOptions()
            reader.camera_model = group.model
            reader.camera_params = ",".join(map(repr, group.parameters))
            if self.job.has_masks:
                reader.mask_path = self._folder / MASKS
            for start in range(0, len(group.images), IMAGES_PER_CALL):
                chosen = group.images[start : start + IMAGES_PER_CALL]
                pycolmap.extract_features(
                    self._features,
                    self._folder / IMAGES,
                    image_names=[image_name(index) for index in chosen],
                    camera_mode=pycolmap.CameraMode.SINGLE,
                    reader_options=reader,
                    extraction_options=options,
                    device=pycolmap.Device.cpu,
                )
                if start == 0:  # the rest of the group has the camera that was made for its first images
                    reader.existing_camera_id = self._camera_of(chosen[0])
                done += len(chosen)
                _say("features", done, self.job.num_images)

    def descriptors(self) -> List[Float[np.ndarray, "_ 128"]]:
        """Of the features of each image."""
        with closing(pycolmap.Database.open(self._features)) as opened:
            read = [opened.read_descriptors(image_id) for image_id in self._ids(opened)]
        return [np.asarray(getattr(each, "data", None), dtype=np.float32) for each in read]

    def match(
        self, pairs: Int[np.ndarray, "pairs 2"], criteria: Criteria, beside: Optional[MatchedPairs] = None
    ) -> MatchedPairs:
        """Compare features of pairs of images.

        Args:
            pairs: which images.
            criteria: how sure matches have to be.
            beside: pairs that are matched already, and are kept but for these. Matched by the same criteria, they are
                in the same database, and what was `beside` is of no use any more.
        """
        name = "loose" if criteria.is_loose else "strict"
        database = self._folder / f"{name}.db"
        compared = frozenset(map(tuple, np.sort(pairs, axis=1).tolist()))
        if beside is None:
            shutil.copy(self._features, database)
        else:
            if beside.database != database:
                shutil.copy(beside.database, database)
            self._forget(database, pairs)
            compared |= beside.compared
        matching = pycolmap.FeatureMatchingOptions()
        matching.num_threads, matching.use_gpu = self.job.num_threads, False
        verification = pycolmap.TwoViewGeometryOptions()
        verification.min_num_inliers, verification.ransac.max_error = criteria.min_inliers, criteria.max_error_px
        verification.ransac.random_seed = self.job.seed
        listed = self._folder / "pairs.txt"
        for start in range(0, len(pairs), PAIRS_PER_CALL):
            chosen = pairs[start : start + PAIRS_PER_CALL]
            listed.write_text("\n".join(f"{image_name(i)} {image_name(j)}" for i, j in chosen.tolist()))
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
        matches, aspects = self._verified(database)
        _say("overlaps", 0, len(matches.pairs))
        return MatchedPairs(database, criteria, matches, overlaps_of_pairs(matches, aspects), compared)

    def map(
        self,
        matched: MatchedPairs,
        begun: Optional[Model] = None,
        criteria: Optional[Criteria] = None,
        among: Optional[Sequence[int]] = None,
        pairs: Optional[AbstractSet[Tuple[int, int]]] = None,
    ) -> List[Model]:
        """Put cameras together; the largest model first.

        Args:
            matched: how images match.
            begun: a model to go on from.
            criteria: how sure images have to be; None for as sure as the matches.
            among: only these images; None for all.
            pairs: only these pairs, the smaller index first; None for all.
        """
        job, criteria = self.job, criteria or matched.criteria
        options = pycolmap.IncrementalPipelineOptions()
        options.num_threads, options.random_seed, options.extract_colors = job.num_threads, job.seed, False
        options.constant_cameras = {
            self._camera_of(group.images[0]) for group in job.groups if group.is_known and group.images
        }
        if job.num_images > MANY_IMAGES:
            options.ba_global_frames_ratio = options.ba_global_points_ratio = RARER_ADJUSTMENT
            options.ba_global_max_num_iterations, options.ba_global_max_refinements = ADJUSTMENT_STEPS, ADJUSTMENTS
        mapper = options.mapper
        mapper.abs_pose_min_num_inliers = criteria.min_points
        mapper.abs_pose_min_inlier_ratio = criteria.min_point_share
        if criteria.is_loose:
            options.min_num_matches, options.min_model_size = criteria.min_inliers, 3
            mapper.init_min_num_inliers, mapper.init_min_tri_angle = 25, 8.0
            mapper.filter_max_reproj_error = criteria.max_error_px
            mapper.abs_pose_max_error = max(4.0, 2.0 * criteria.max_error_px)
        start: str = ""
        if begun is not None:
            options.multiple_models = False
            start = tempfile.mkdtemp(prefix="begun-", dir=self._folder)
            begun.reconstruction.write(start)
        if among is not None:
            options.image_names = [image_name(index) for index in among]
        done = [0 if begun is None else len(begun)]

        def registered() -> None:
            done[0] += 1
            _say("cameras", done[0], job.num_images)

        found = pycolmap.incremental_mapping(
            matched.database if pairs is None else self._with_only(matched, pairs),
            self._folder / IMAGES,
            tempfile.mkdtemp(prefix="models-", dir=self._folder),
            options,
            input_path=start,
            initial_image_pair_callback=registered,
            next_image_callback=registered,
        )
        models = [Model(_component(each), each) for each in found.values() if each.num_reg_images() > 0]
        return sorted(models, key=len, reverse=True)

    def _with_only(self, matched: MatchedPairs, pairs: AbstractSet[Tuple[int, int]]) -> Path:
        """A copy of the database, in place of the last such, with some of the pairs."""
        copy = matched.database.with_name(f"{matched.database.stem}-chosen.db")
        shutil.copy(matched.database, copy)
        with closing(pycolmap.Database.open(copy)) as opened:
            ids = self._ids(opened)
            for i, j in matched.overlaps.keys() - pairs:
                opened.delete_inlier_matches(ids[i], ids[j])
        return copy

    def _forget(self, database: Path, pairs: Int[np.ndarray, "pairs 2"]) -> None:
        """Leave nothing of some pairs in a database; those that it has are not matched again."""
        with closing(pycolmap.Database.open(database)) as opened:
            ids = self._ids(opened)
            for i, j in pairs.tolist():
                opened.delete_matches(ids[i], ids[j])
                opened.delete_two_view_geometry(ids[i], ids[j])

    def _ids(self, database: Any) -> List[int]:
        """Of all images, in pycolmap's database."""
        return [_image(database, index).image_id for index in range(self.job.num_images)]

    def _camera_of(self, index: int) -> int:
        with closing(pycolmap.Database.open(self._features)) as opened:
            return int(_image(opened, index).camera_id)

    def _verified(self, database: Path) -> Tuple[PairMatches, Float[np.ndarray, "images"]]:
        """Matches that fit one relative pose of the two cameras, and width over height of every image."""
        with closing(pycolmap.Database.open(database)) as opened:
            index_of = {image_id: index for index, image_id in enumerate(self._ids(opened))}
            cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
            keypoints: Dict[int, np.ndarray] = {}
            aspects = np.ones(self.job.num_images)
            for image in opened.read_all_images():
                camera = cameras[image.camera_id]
                size = np.array([camera.width, camera.height])
                keypoints[image.image_id] = np.asarray(opened.read_keypoints(image.image_id))[:, :2] / size
                aspects[index_of[image.image_id]] = camera.width / camera.height
            pairs, points = [], []
            for pair_id, geometry in zip(*opened.read_two_view_geometries(), strict=True):
                inliers = np.asarray(geometry.inlier_matches).reshape(-1, 2)
                if len(inliers) == 0:
                    continue
                one, other = pycolmap.pair_id_to_image_pair(pair_id)
                pairs.append((index_of[one], index_of[other]))
                points.append(np.concatenate([keypoints[one][inliers[:, 0]], keypoints[other][inliers[:, 1]]], axis=1))
        matches = PairMatches(
            np.array(pairs, dtype=np.int64).reshape(-1, 2),
            np.cumsum([len(each) for each in points], dtype=np.int64),
            np.concatenate([np.zeros((0, 4)), *points]).astype(np.float32),
        )
        return matches, aspects


def _image(database: Any, index: int) -> Any:
    """pycolmap's entry of an image."""
    return database.read_image_with_name(image_name(index))


def _say(stage: str, done: int, total: int) -> None:
    print(f"{stage} {done} {total}", flush=True)


def _component(reconstruction: Any) -> Component:
    kept = sorted((int(Path(reconstruction.images[each].name).stem), each) for each in reconstruction.reg_image_ids())
    point_ids = sorted(reconstruction.point3D_ids())
    row_of = {point_id: row for row, point_id in enumerate(point_ids)}
    poses, focal, center, distortion = [], [], [], []
    seen_by, seen_point, seen_at = [], [], []
    for row, (_, image_id) in enumerate(kept):
        image = reconstruction.images[image_id]
        camera = reconstruction.cameras[image.camera_id]
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
        points=np.array([reconstruction.points3D[each].xyz for each in point_ids], dtype=np.float64).reshape(-1, 3),
        seen_by=np.array(seen_by, dtype=np.int64),
        seen_point=np.array(seen_point, dtype=np.int64),
        seen_at=np.array(seen_at, dtype=np.float64).reshape(-1, 2),
        error_px=np.array(reconstruction.compute_mean_reprojection_error(), dtype=np.float64),
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
