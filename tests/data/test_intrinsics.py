"""Whether a lens can be like that, and whether its distortion can be undone."""

from dataclasses import replace

import pytest
from nerfstudio.cameras.cameras import CameraType

from gnerf_ns.data.images import ImageSize
from gnerf_ns.data.intrinsics import Intrinsics, check_intrinsics, doubts_about, focal_from_fov
from gnerf_ns.utils.errors import InputError

PINHOLE = Intrinsics(ImageSize(48, 36), (60.0, 60.0), (24.0, 18.0))
FISHEYE = replace(PINHOLE, focal=(30.0, 30.0), camera_type=CameraType.FISHEYE)
PANORAMA = Intrinsics(ImageSize(48, 24), (24.0, 24.0), (24.0, 12.0), camera_type=CameraType.EQUIRECTANGULAR)


def distorted(lens: Intrinsics, **figures: float) -> Intrinsics:
    return replace(lens, distortion=tuple(figures.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2")))


def scaled(lens: Intrinsics, scale: int) -> Intrinsics:
    """The same view at a larger size."""
    (width, height), (fx, fy), (cx, cy) = lens.size, lens.focal, lens.center
    size = ImageSize(width * scale, height * scale)
    return replace(lens, size=size, focal=(fx * scale, fy * scale), center=(cx * scale, cy * scale))


@pytest.mark.parametrize("camera_type", [CameraType.PERSPECTIVE, CameraType.FISHEYE])
@pytest.mark.parametrize("fov_deg", [2.0, 40.0, 140.0])
def test_fields_of_view(camera_type: CameraType, fov_deg: float) -> None:
    focal = focal_from_fov(fov_deg, 48.0, camera_type)
    lens = replace(PINHOLE, focal=(focal, focal), camera_type=camera_type)
    assert lens.fields_of_view[0] == pytest.approx(fov_deg)
    assert 0.7 * fov_deg < lens.fields_of_view[1] < fov_deg


def test_a_panorama_shows_the_whole_sphere() -> None:
    assert PANORAMA.fields_of_view == pytest.approx((360.0, 180.0))


@pytest.mark.parametrize(
    "lens",
    [
        PINHOLE,
        replace(PINHOLE, focal=(60.0, 33.75)),  # 16:9 squeezed into a square
        replace(PINHOLE, center=(17.0, 25.0)),
        replace(PINHOLE, focal=(8.0, 8.0)),
        FISHEYE,
        replace(FISHEYE, focal=(8.0, 8.0)),  # 344 degrees
        PANORAMA,
        replace(PINHOLE, size=ImageSize(1, 1), focal=(1.0, 1.0), center=(0.5, 0.5)),
        # What calibrations of real lenses look like: a mirrorless camera, an action camera, three fisheyes.
        distorted(PINHOLE, k1=-0.12, k2=0.11, k3=-0.03, p1=1e-3, p2=-7e-4),
        distorted(replace(PINHOLE, focal=(34.0, 34.0)), k1=-0.26, k2=0.09, k3=-0.015, p1=2e-4),
        distorted(PINHOLE, k1=0.1, k2=-0.3, k3=0.4, k4=-0.1),
        distorted(FISHEYE, k1=0.05, k2=-0.006, k3=0.002, k4=-0.0005),
        distorted(FISHEYE, k1=0.01),
        distorted(replace(FISHEYE, focal=(15.0, 15.0)), k1=-0.02, k2=-0.001),
    ],
)
def test_possible_lenses(lens: Intrinsics) -> None:
    check_intrinsics(lens, "a.json says that b.png")
    large = scaled(lens, 100)
    check_intrinsics(large, "a.json says that b.png")
    assert doubts_about(lens) == doubts_about(large) == []


@pytest.mark.parametrize(
    ("lens", "message"),
    [
        (replace(PINHOLE, focal=(1e5, 1e5)), "field of view of 0.0275 degrees along x .*no perspective lens has"),
        (replace(PINHOLE, focal=(60.0, 0.001)), "field of view of 180 degrees along y"),
        (replace(PINHOLE, focal=(6.0, 6.0)), "field of view of 152 degrees along x"),
        (replace(PINHOLE, size=ImageSize(10**9, 10**9)), "field of view of 180 degrees"),
        (replace(PINHOLE, focal=(60.0, 25.0)), "focal lengths fl_x, fl_y = 60, 25 that differ by more than a factor"),
        (replace(PINHOLE, focal=(25.0, 60.0)), "differ by more than a factor of 2"),
        (replace(PINHOLE, focal=(1.39, 1.39), center=(0.5, 0.5)), "normalized .*48x36.*; give them in pixels"),
        (replace(PINHOLE, focal=(1.39, 1.39)), "normalized"),
        (replace(PINHOLE, focal=(1.25, 1.67)), "normalized"),
        (replace(PINHOLE, center=(0.5, 0.5)), "normalized"),
        (replace(FISHEYE, focal=(0.6, 0.6), center=(0.48, 0.52)), "normalized"),
        (scaled(replace(PINHOLE, focal=(1.39 / 100, 1.39 / 100)), 100), "normalized"),
        (replace(PINHOLE, center=(96.0, 72.0)), "cx, cy = 96, 72 outside the image or at its edge"),
        (replace(PINHOLE, center=(48.0, 36.0)), "at its edge"),
        (replace(PINHOLE, center=(0.0, 0.0)), "at its edge"),
        (replace(PINHOLE, center=(24.0, -18.0)), "outside the image"),
        (replace(FISHEYE, focal=(7.0, 7.0)), "field of view of 393 degrees along x .*no fisheye lens has"),
        (replace(PANORAMA, focal=(24.0, 12.0)), "field of view of 360 degrees along y .*no equirectangular"),
    ],
)
def test_impossible_lenses(lens: Intrinsics, message: str) -> None:
    with pytest.raises(InputError, match=f"^a.json says that b.png has .*{message}"):
        check_intrinsics(lens, "a.json says that b.png")


@pytest.mark.parametrize(
    ("lens", "message"),
    [
        (distorted(PINHOLE, k1=-44.8, k2=1017.4, p1=0.62, p2=0.93), r"k1 = -44.8, k2 = 1017.4, p1 = 0.62, p2 = 0.93"),
        (distorted(PINHOLE, k1=-3.0), "k1 = -3"),
        (distorted(replace(PINHOLE, focal=(20.0, 20.0)), k1=-0.3), "k1 = -0.3"),  # in the corners alone
        (distorted(PINHOLE, k1=-5.0, k2=9.0), "distortion"),  # twice, so that the corners are in order again
        (distorted(PINHOLE, p1=1.5), "p1 = 1.5"),
        (distorted(PINHOLE, k4=-500.0), "k4 = -500"),
        (distorted(FISHEYE, k1=-0.8), "k1 = -0.8"),
        (distorted(replace(FISHEYE, focal=(14.0, 14.0)), k1=-0.04, k2=-0.01), "k1 = -0.04, k2 = -0.01"),
        (distorted(replace(PINHOLE, focal=(6.5, 6.5)), k1=-0.0065), "distortion"),  # no ray is so far from the axis
    ],
)
def test_distortion_that_cannot_be_undone(lens: Intrinsics, message: str) -> None:
    with pytest.raises(InputError, match=f"{message}.* that (cannot be undone all over|folds) the image.*; correct it"):
        check_intrinsics(lens, "a.json says that b.png")
    with pytest.raises(InputError, match="distortion"):
        check_intrinsics(scaled(lens, 100), "a.json says that b.png")


@pytest.mark.parametrize(("share", "is_doubtful"), [(0.5, False), (0.3, False), (0.2, True), (0.9, True)])
def test_a_principal_point_far_from_the_middle_is_doubtful(share: float, is_doubtful: bool) -> None:
    lens = replace(PINHOLE, center=(48.0 * share, 18.0))
    check_intrinsics(lens, "a.json says that b.png")
    assert bool(doubts_about(lens)) == is_doubtful
