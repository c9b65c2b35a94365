import base64
import io

import numpy as np
import pytest
from made_report import noise
from PIL import Image

from gnerf_ns.report.pictures import DIFFERENCE_GAIN, difference, fitted_size, jpeg_uri, resized


def decoded(uri: str) -> np.ndarray:
    head, _, content = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.mark.parametrize(
    ("size", "side", "fitted"),
    [((640, 480), 160, (160, 120)), ((100, 100), 160, (100, 100)), ((3, 3000), 160, (1, 160))],
)
def test_pictures_are_shrunk_and_never_enlarged(size, side, fitted):
    assert fitted_size(size[0], size[1], side) == fitted


def test_shrinking_averages():
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:, ::2] = 200
    assert (resized(picture, 2, 2) == 100).all()
    assert resized(picture, 4, 4) is picture


def test_a_difference_is_gray_and_brighter():
    photo, rendering = np.full((4, 6, 3), 100, np.uint8), np.full((2, 3, 3), 100, np.uint8)
    rendering[0, 0] = (100, 94, 112)  # by 0, 6 and 12: by 6 in the mean
    rendering[1, 2] = 255
    off = difference(photo, rendering)
    assert off.shape == rendering.shape
    assert off[0, 0].tolist() == [6 * DIFFERENCE_GAIN] * 3
    assert off[1, 2].tolist() == [255] * 3
    assert off[0, 1].tolist() == [0] * 3


def test_smooth_pictures_are_kept_well():
    rows, columns = np.mgrid[:160, :160]
    picture = np.stack([rows, columns, rows // 2], axis=-1).astype(np.uint8)
    shown = decoded(jpeg_uri(picture, 12_000))
    assert shown.shape == picture.shape
    assert np.abs(shown.astype(int) - picture).mean() < 2.0


def test_noise_keeps_to_the_size():
    for side, max_bytes in ((160, 12_000), (320, 33_000)):
        uri = jpeg_uri(noise(side, 0), max_bytes)
        assert 0.5 * max_bytes < 0.75 * len(uri) < 1.01 * max_bytes
