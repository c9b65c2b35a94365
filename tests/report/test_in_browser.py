"""The page as a browser shows it: Debian's chromium, by playwright, which must not download one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest
import torch
from browser import opened_browser
from made_report import HOSTILE_NAME, made_contents

from gnerf_ns.report.page import write_report

MAX_WAIT_MS = 120_000
"""On busy machines."""


def wait_for(page: Any, condition: str) -> None:
    """As playwright's `wait_for_function`, which the page's own policy forbids, as it evaluates strings."""
    for _ in range(MAX_WAIT_MS // 100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never: {condition}")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, three of them flagged."""
    path = tmp_path_factory.mktemp("a run") / "report.html"
    write_report(path, made_contents(12, photo_side=64, rendering_side=32))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as opened:
        yield opened


class Watched:
    """A page, and what it asked for and complained of."""

    def __init__(self, browser: Any, report: Path, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
        self.requests: List[str] = []
        self.errors: List[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page.set_default_timeout(MAX_WAIT_MS)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(report.as_uri())
        wait_for(self.page, "document.querySelector('#cameras canvas') && document.querySelector('.curve svg')")


@pytest.fixture(scope="module")
def wide(browser: Any, report: Path) -> Watched:
    """One page for most tests: to open one takes seconds without a GPU."""
    return Watched(browser, report)


def place_of_camera(page: Any, index: int) -> Tuple[float, float]:
    """Where a camera is drawn, in pixels of the window, by plotly's own matrices."""
    return page.evaluate(
        """index => {
            const {left, top, width, height} = document.querySelector("#cameras canvas").getBoundingClientRect();
            const {glplot, dataScale} = document.getElementById("cameras")._fullLayout.scene._scene;
            const center = JSON.parse(document.getElementById("plots").textContent).frusta[index][5];
            let point = [...center.map((value, axis) => value * dataScale[axis]), 1];
            for (const name of ["model", "view", "projection"]) {
                const matrix = glplot.cameraParams[name];
                const row = (index) => (sum, value, column) => sum + matrix[4 * column + index] * value;
                point = [0, 1, 2, 3].map((index) => point.reduce(row(index), 0));
            }
            return [left + width * (1 + point[0] / point[3]) / 2, top + height * (1 - point[1] / point[3]) / 2];
        }""",
        index,
    )


def point_at_camera(page: Any, index: int) -> None:
    """Move the mouse there, until its photo is shown."""
    page.locator("#cameras").scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    x, y = place_of_camera(page, index)
    for attempt in range(100):
        page.mouse.move(x + attempt % 3 - 1, y)
        page.wait_for_timeout(200)
        if page.locator("#tip").is_visible():
            return
    raise AssertionError(f"nothing is shown of camera {index}")


def test_it_is_shown_whole_without_network_and_without_errors(wide: Watched, report: Path):
    page = wide.page
    assert page.locator("article").count() == 12
    assert page.locator(".curve svg.main-svg").count() >= 2
    assert page.evaluate("document.querySelector('#cameras canvas').width") > 300
    names = page.locator("article h3 .name").all_text_contents()
    assert names == [HOSTILE_NAME, *(f"image {index}.png" for index in range(1, 12))]
    assert page.title().endswith("images and their poses"), "the hostile name has done nothing"
    page.wait_for_timeout(500)
    away = [url for url in wide.requests if not url.startswith(("data:", "blob:"))]
    assert away == [report.as_uri()]
    assert wide.errors == []


def test_pictures_are_whole_and_alternatives_beside_them(wide: Watched):
    images = wide.page.locator("article .picture img")
    assert images.count() == 12 * 3 + 3
    assert images.evaluate_all("all => all.every(image => image.decode && image.naturalWidth > 0)")
    first = wide.page.locator("article").nth(0)
    assert first.locator("figcaption").all_text_contents()[-1] == "rendering from the best other place"
    assert first.locator(".picture").last.is_visible()


def test_a_camera_shows_its_photo_and_a_click_leads_to_its_card(wide: Watched):
    page, nearest = wide.page, 10  # which no other camera covers
    point_at_camera(page, nearest)
    tip = page.locator("#tip")
    assert tip.locator(".name").inner_text() == f"image {nearest}.png"
    assert "Rotation: ± 0.27°" in tip.inner_text()
    assert tip.locator("img").evaluate("image => image.naturalWidth") == 64
    page.mouse.down()
    page.mouse.up()  # at once: shorter than a frame
    wait_for(page, f"document.activeElement.id === 'image-{nearest}'")
    card = page.locator(f"#image-{nearest}")
    assert "chosen" in str(card.get_attribute("class"))
    page.wait_for_timeout(1500)  # it scrolls smoothly
    assert 0 <= card.bounding_box()["y"] < 800


def test_cards_lead_back_to_their_camera(wide: Watched):
    page = wide.page
    page.locator("#image-5 .show-camera").click()
    wait_for(page, "document.getElementById('cameras').data.at(-1).x.length > 0")
    drawn = page.evaluate("document.getElementById('cameras').data.at(-1).x.filter(value => value !== null)")
    frustum = page.evaluate("JSON.parse(document.getElementById('plots').textContent).frusta[5].map(each => each[0])")
    assert set(drawn) == set(frustum)


def test_a_photo_opens_larger_by_keyboard_alone(wide: Watched):
    page = wide.page
    page.locator("#image-1 .picture").first.focus()
    small = page.locator("#image-1 .picture").first.bounding_box()["width"]
    page.keyboard.press("Enter")
    larger = page.locator("#larger img")
    assert larger.is_visible()
    assert larger.bounding_box()["width"] > 2 * small
    assert page.locator("#larger figcaption").inner_text() == "photo of image 1.png"
    page.keyboard.press("ArrowRight")
    assert page.locator("#larger figcaption").inner_text() == "rendering of image 1.png"
    page.keyboard.press("Escape")
    assert not larger.is_visible()


def test_only_flagged_or_held_out_cards(wide: Watched):
    page = wide.page
    for which, shown in (("flagged", [0, 1, 2]), ("held-out", [4, 9]), ("all", list(range(12)))):
        page.locator(f"input[value={which}]").check()
        visible = [index for index in range(12) if page.locator(f"#image-{index}").is_visible()]
        assert visible == shown


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_in_its_width(browser: Any, report: Path, scheme: str):
    watched = Watched(browser, report, 390, 844, scheme)
    page = watched.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    back, text = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(int(value) for value in color[4:-1].split(",")) / 3 for color in (back, text)]
    assert (
        (brightness[0] < 64 and brightness[1] > 192) if scheme == "dark" else (brightness[0] > 192 > 64 > brightness[1])
    )
    assert watched.errors == []
    page.close()


def test_it_follows_a_change_from_light_to_dark(wide: Watched):
    page = wide.page
    page.emulate_media(color_scheme="dark")
    wait_for(page, "document.querySelector('.curve').layout.paper_bgcolor === '#0d1117'")
    page.evaluate("document.getElementById('cameras').emit('plotly_click', {points: [{customdata: 3}], event: {}})")
    wait_for(page, "document.activeElement.id === 'image-3'")
    page.emulate_media(color_scheme="light")
    assert wide.errors == []


def test_a_camera_that_is_nowhere_is_left_out_and_its_card_is_not(browser: Any, tmp_path: Path):
    contents = made_contents(6, photo_side=24, rendering_side=16)
    nowhere = torch.full((3, 4), math.nan)
    contents.images[1] = replace(contents.images[1], camera_to_world=nowhere)
    write_report(tmp_path / "report.html", contents)
    watched = Watched(browser, tmp_path / "report.html")
    drawn = "document.getElementById('cameras').data.find((trace) => trace.name === 'cameras')"
    assert watched.page.evaluate(f"{drawn}.customdata") == [0, 2, 3, 4, 5]
    assert watched.page.evaluate(f"{drawn}.marker.symbol") == ["circle"] * 3 + ["diamond", "circle"]
    watched.page.evaluate("location.hash = '#image-1'")
    wait_for(watched.page, "document.querySelector('.chosen')?.id === 'image-1'")
    assert watched.page.locator("article").count() == 6 and watched.page.locator(".show-camera").count() == 5
    assert watched.errors == []
    watched.page.close()
