"""What a transforms.json says about lenses, in the dialects of several programs."""

import math
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import pytest
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, CameraType
from PIL import Image

from gnerf_ns.data.intrinsics import Intrinsics
from gnerf_ns.data.lens_sources import Lenses, lenses_of_frames
from gnerf_ns.data.transforms_json import Frame
from gnerf_ns.utils.errors import InputError

ANGLE = 0.6911112070083618  # 66.67 pixels of focal length
SIZE = {"w": 48, "h": 48}


@pytest.fixture
def frame_of(tmp_path: Path):
    """Makes frames of images of 48x48 pixels, or another size."""

    def build(values: Optional[Dict[str, Any]], name: str = "p00.png", width: int = 48, height: int = 48) -> Frame:
        image = tmp_path / name
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(image)
        if values is None:
            return Frame(image)
        return Frame(image, values=values, source=tmp_path / "transforms.json")

    return build


def read(*frames: Frame, fov_deg: Optional[float] = None) -> Lenses:
    return lenses_of_frames(list(frames), fov_deg, 50.0)


def lens_of(*frames: Frame) -> Intrinsics:
    return read(*frames).intrinsics[0]


@pytest.mark.parametrize(
    "values",
    [
        {"fl_x": 60, "fl_y": 60.0},
        {"fl_x": "60", "cx": "24.0", "cy": 24, "w": "48", "h": 48.0},
        {"fl_y": 60.0, **SIZE},
        {"fl_x": 60.0, "camera_angle_x": ANGLE, "camera_angle_y": ANGLE},
        {"camera_angle_x": 2 * math.atan(24 / 60)},
        {"camera_angle_y": 2 * math.atan(24 / 60), "w": 48},
        {"x_fov": 2 * math.degrees(math.atan(24 / 60))},  # instant-ngp's, in degrees
        {"fl_x": 60.0, "is_fisheye": False, "camera_model": "OPENCV", "k1": 0.0, "k5": 0, "k6": 0.0, "sk_x": 0.0},
        {"fl_x": 60.0, "k1": None, "camera_model": None, "distortion_params": [0, 0, 0, 0, 0, 0]},
    ],
)
def test_one_pinhole_in_many_spellings(frame_of, values) -> None:
    lenses = read(frame_of(values))
    lens = lenses.intrinsics[0]
    assert lens.focal == pytest.approx((60.0, 60.0)) and lens.center == (24.0, 24.0) and lens.size == (48, 48)
    assert lens.camera_type == CameraType.PERSPECTIVE and not any(lens.distortion)
    assert lenses.source == "transforms.json" and not lenses.doubts


def test_figures_of_another_size_than_the_files(frame_of) -> None:
    lens = lens_of(frame_of({"fl_x": 600.0, "cx": 240.0, "cy": 250.0, "w": 480}))
    assert lens == Intrinsics(lens.size, (600.0, 600.0), (240.0, 250.0)) and lens.size == (480, 480)
    assert lens_of(frame_of({"fl_x": 600.0, "h": 240}, width=48, height=24)).size == (480, 240)


@pytest.mark.parametrize("flag", [True, 1])
def test_fisheye_lenses_of_instant_ngp(frame_of, flag) -> None:
    values = {"is_fisheye": flag, "k1": 0.01, "k2": -0.002, "k3": 0.003, "k4": -0.0004, "p1": 0.0, "p2": 0}
    lens = lens_of(frame_of({**values, "fl_x": 30.0, "fl_y": 30.0, "cx": 24.0, "cy": 24.0, **SIZE}))
    assert lens.camera_type == CameraType.FISHEYE
    assert lens.distortion == (0.01, -0.002, 0.003, -0.0004, 0.0, 0.0)


@pytest.mark.parametrize(
    ("model", "camera_type"),
    [
        ("SIMPLE_PINHOLE", CameraType.PERSPECTIVE),
        ("PINHOLE", CameraType.PERSPECTIVE),
        ("pinhole", CameraType.PERSPECTIVE),
        ("SIMPLE_RADIAL", CameraType.PERSPECTIVE),
        ("Radial", CameraType.PERSPECTIVE),
        ("OPENCV", CameraType.PERSPECTIVE),
        ("FULL_OPENCV", CameraType.PERSPECTIVE),
        ("perspective", CameraType.PERSPECTIVE),
        ("OPENCV_FISHEYE", CameraType.FISHEYE),
        ("opencv-fisheye", CameraType.FISHEYE),
        ("SIMPLE_RADIAL_FISHEYE", CameraType.FISHEYE),
        ("RADIAL_FISHEYE", CameraType.FISHEYE),
        ("fisheye", CameraType.FISHEYE),
    ],
)
def test_camera_models(frame_of, model: str, camera_type: CameraType) -> None:
    assert lens_of(frame_of({"camera_model": model, "fl_x": 60.0})).camera_type == camera_type


@pytest.mark.parametrize("values", [{"camera_model": "EQUIRECTANGULAR"}, {"equirectangular": True}])
def test_panoramas_need_no_focal_length(frame_of, values) -> None:
    lens = lens_of(frame_of({"camera_angle_x": 0.7, **values}, width=48, height=24))
    assert lens.camera_type == CameraType.EQUIRECTANGULAR and lens.focal == (24.0, 24.0)


UNSUPPORTED = [
    *("FOV", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE", "EUCM", "", "OPENCV9", 5, ["OPENCV"]),
    *(
        name
        for name, camera_type in CAMERA_MODEL_TO_TYPE.items()
        if camera_type not in (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.EQUIRECTANGULAR)
    ),
]


@pytest.mark.parametrize("model", UNSUPPORTED, ids=str)
def test_other_camera_models_are_refused_with_a_list_of_those_that_are_not(frame_of, model) -> None:
    """Before training: their rays do not start at one point, or no transforms.json can hold them."""
    frame = frame_of({"camera_model": model, "fl_x": 60.0})
    with pytest.raises(InputError, match=r"transforms.json names the camera model .* for p00.png; use one of SIMPLE_P"):
        read(frame)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        # OpenCV's rational model, whose k4 to k6 are a denominator.
        ({"k1": 0.1, "k4": 0.2, "k5": 0.1, "k6": 0.05, "camera_model": "OPENCV"}, "gives k4 = 0.2, k5 = 0.1, k6 = 0"),
        ({"k4": 0.2, "k5": 0.0, "k6": 0.0}, "gives k4 = 0.2"),
        ({"k4": 0.2, "camera_model": "FULL_OPENCV"}, "gives k4 = 0.2"),
        ({"distortion_params": [0.1, 0, 0, 0.2, 0, 0], "camera_model": "full_opencv"}, "gives k4 = 0.2"),
        ({"k6": "0.05"}, "gives k6 = 0.05"),
        ({"k5": 0.01, "camera_model": "OPENCV_FISHEYE"}, "gives k5 = 0.01"),
        ({"sx1": 0.01}, "gives sx1 = 0.01"),
        ({"ftheta_p0": 0.0, "ftheta_p1": 0.001}, "gives ftheta_p1 = 0.001"),
        ({"latlong": True}, "gives latlong = True"),
        ({"orthographic": True}, "gives orthographic = True"),
        ({"camera_model": "OPENCV_FISHEYE", "p1": 0.01}, "gives p1 or p2, which OPENCV_FISHEYE has not"),
        ({"camera_model": "PINHOLE", "k1": 0.01}, "camera model PINHOLE, which has no distortion"),
        ({"camera_model": "OPENCV", "is_fisheye": True}, "camera model OPENCV but has is_fisheye = True"),
        ({"camera_model": "OPENCV_FISHEYE", "is_fisheye": False}, "OPENCV_FISHEYE but has is_fisheye = False"),
        ({"is_fisheye": "yes"}, "is_fisheye = 'yes'.*must be true or false"),
        ({"distortion_params": [0.1, 0.2, 0.3, 0.4]}, "distortion_params .*must be 6 finite numbers: k1, k2, k3, k4"),
        ({"distortion_params": [0.1, 0.2, 0.3, 0.4, 0.5, math.nan]}, "6 finite numbers"),
        ({"distortion_params": 0.1}, "6 finite numbers"),
        ({"distortion_params": [0.01, 0, 0, 0, 0, 0], "k1": 0.02}, "distortion_params and other figures"),
        ({"k1": math.nan}, "k1 = nan .*must be a finite number"),
        ({"k1": "strong"}, "k1 = 'strong'"),
        ({"k1": -44.8, "k2": 1017.4, "p1": 0.62, "p2": 0.93}, "distortion .*cannot be undone"),
        ({"fl_x": math.inf}, "fl_x = inf"),
        ({"fl_x": 0}, "fl_x = 0 .*must be positive"),
        ({"fl_x": -60.0}, "fl_x = -60 .*must be positive"),
        ({"fl_y": -60.0}, "fl_y = -60"),
        ({"fl_x": True}, "fl_x = True"),
        ({"fl_x": [60.0]}, r"fl_x = \[60.0\]"),
        ({"fl_x": 1e5}, "field of view of 0.0275 degrees"),
        ({"fl_y": 0.001}, "field of view of 180 degrees along y"),
        ({"fl_x": 1.39, "cx": 0.5, "cy": 0.5, **SIZE}, "normalized"),
        ({"cx": 240.0}, "cx, cy = 240, 24 outside the image"),
        ({"cx": math.nan}, "cx = nan"),
        ({"w": 0}, "w = 0 .*must be positive"),
        ({"w": -48, "h": -48}, "w = -48"),
        ({"w": 0.2, "h": 0.2}, "size of 0.2 x 0.2"),
        ({"w": 1, "h": 1}, "field of view of 0.955 degrees"),
        ({"w": 1e9, "h": 1e9}, "field of view of 180 degrees"),
        ({"h": "many"}, "h = 'many'"),
        ({"fl_x": None, "camera_angle_x": 39.6}, r"camera_angle_x = 39.6 .*radians, below π \(39.6 degrees are 0.6912"),
        ({"fl_x": None, "camera_angle_x": -0.7}, "camera_angle_x = -0.7"),
        ({"fl_x": None, "x_fov": 200.0}, "x_fov = 200"),
        ({"fl_x": None, "camera_model": "OPENCV_FISHEYE"}, "gives no focal length .* fisheye image p00.png; add it"),
    ],
)
def test_what_cannot_be_read_or_cannot_be(frame_of, values, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(frame_of({"fl_x": 60.0, **values}))
    assert all(word in str(caught.value) for word in ("transforms.json", "p00.png")) and "\n" not in str(caught.value)


def test_a_fourth_radial_figure_is_nerfstudios(frame_of) -> None:
    assert lens_of(frame_of({"fl_x": 60.0, "k4": 0.02})).distortion == (0.0, 0.0, 0.0, 0.02, 0.0, 0.0)


def test_mixed_camera_models_are_refused(frame_of) -> None:
    frames = [frame_of({"fl_x": 60.0}), frame_of({"fl_x": 60.0, "is_fisheye": True}, "p01.png")]
    with pytest.raises(InputError, match=r"mixes camera models \(perspective for p00.png, fisheye for p01.png\)"):
        read(*frames)
    with pytest.raises(InputError, match=r"transforms\.json mixes camera models \(perspective for p00.png"):
        read(frame_of(None), frames[1])


def test_what_contradicts_itself_or_is_unusual_is_named(frame_of) -> None:
    names = ["p00.png", "p01.png"]
    lenses = read(*(frame_of({"fl_x": 200.0, "camera_angle_x": ANGLE, "cx": 40.0}, name) for name in names))
    assert lenses.intrinsics[0].focal == (200.0, 200.0)
    found = {doubt: [path.name for path in paths] for doubt, paths in lenses.doubts.items()}
    assert found == {
        "fl_x contradicts camera_angle_x, and fl_x is used, of": names,
        "the principal point is far from the middle (right for crops only) of": names,
    }


def test_an_angle_that_is_not_used_is_doubtful_at_most(frame_of) -> None:
    lenses = read(frame_of({"fl_x": 60.0, "camera_angle_x": 39.6}))
    assert lenses.intrinsics[0].focal == (60.0, 60.0)
    assert list(lenses.doubts) == ["fl_x contradicts camera_angle_x, and fl_x is used, of"]


def test_a_frame_without_a_focal_length_has_that_of_the_others(frame_of) -> None:
    """At the scale of its own size, and with the rest as it is listed."""
    names: List[str] = ["p00.png", "p01.png", "p02.png"]
    shared = {"cx": 23.0, "cy": 24.0, **SIZE, "k1": 0.01}
    frames = [frame_of({**shared, "fl_x": 60.0}, name) for name in names]
    frames.append(frame_of({**shared, "w": 96, "h": 96, "cx": 50.0, "cy": 48.0}, "p03.png"))
    lenses = read(*frames)
    assert lenses.intrinsics[3].focal == pytest.approx((120.0, 120.0)) and lenses.intrinsics[3].center == (50.0, 48.0)
    assert lenses.intrinsics[3].distortion[0] == 0.01
    assert [path.name for path in next(iter(lenses.doubts.values()))] == ["p03.png"]


def test_without_any_focal_length_the_rest_is_as_listed(frame_of) -> None:
    lenses = read(frame_of({"cx": 23.0, "cy": 25.0, "k1": 0.01}))
    assert lenses.source == "default"
    assert lenses.intrinsics[0].center == (23.0, 25.0) and lenses.intrinsics[0].distortion[0] == 0.01


def test_the_user_corrects_impossible_focal_lengths(frame_of) -> None:
    lenses = read(frame_of({"fl_x": 1e5, "fl_y": 1e5}), fov_deg=90.0)
    assert lenses.source == "user" and lenses.intrinsics[0].focal == pytest.approx((24.0, 24.0))


def test_the_last_resort_is_that_of_the_caller(frame_of) -> None:
    lenses = lenses_of_frames([frame_of(None)], None, 90.0)
    assert lenses.source == "default" and lenses.intrinsics[0].focal == pytest.approx((24.0, 24.0))


def test_what_is_wrong_besides_is_told_with_the_users_word(frame_of) -> None:
    with pytest.raises(InputError, match=r"transforms.json \(with --fov-deg\).*p00.png has the principal point cx, cy"):
        read(frame_of({"fl_x": 60.0, "cx": 100.0}), fov_deg=90.0)


def test_a_lens_listed_for_the_stored_pixels_is_that_of_the_upright_image(frame_of) -> None:
    frame = frame_of({"fl_x": 60.0, "fl_y": 61.0, "cx": 20.0, "cy": 15.0, "w": 48, "h": 36})
    turned = Frame(frame.image, values=frame.values, source=frame.source, quarter_turns=1)
    lens = lens_of(turned)
    assert lens.size == (36, 48) and lens.focal == (61.0, 60.0) and lens.center == (21.0, 20.0)


@pytest.mark.parametrize("values", [None, {}])
def test_images_alone(frame_of, values) -> None:
    lenses = read(frame_of(values, width=48, height=24))
    focal = 24 / math.tan(math.radians(25.0))
    assert lenses.intrinsics[0].focal == pytest.approx((focal, focal)) and lenses.source == "default"
