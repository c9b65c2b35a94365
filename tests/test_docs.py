"""What is written for people: links lead somewhere, options and files that are named exist, the README is short."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from gnerf_ns.data.dataparser import UnposedDataParserConfig
from gnerf_ns.demo.command import Demo
from gnerf_ns.localize.command import Localize
from gnerf_ns.localize.localizer import LocalizerConfig
from gnerf_ns.localize.report_command import Report
from gnerf_ns.noposplat.command import Splat

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = sorted(path for folder in (ROOT, ROOT / "docs", ROOT / "benchmarks") for path in folder.glob("*.md"))

MAX_README_BYTES = 8000
"""A README is read in one go; what is longer goes to `docs/`, figures to `benchmarks/README.md`."""

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```.*?^```\n", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```sh\n(.*?)^```\n|`([^`]+)`", re.MULTILINE | re.DOTALL)

COMMANDS = {
    "gnerf-demo": (Demo(),),
    "gnerf-localize": (Localize(Path(), Path()), LocalizerConfig()),  # whose options have no prefix
    "gnerf-report": (Report(Path()),),
    "gnerf-splat": (Splat(),),
    "unposed-data": (UnposedDataParserConfig(),),
}
"""What holds the options of our commands, each as a field."""


def links(text: str) -> List[str]:
    """Where links and images of a document lead, those in code left out."""
    return LINK.findall(FENCE.sub("", text))


def anchors(text: str) -> List[str]:
    """Names that GitHub gives a document's headings."""
    found: Dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.*?) *$", FENCE.sub("", text), re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found[name] = found.get(name, 0) + 1
    return [f"{name}-{index}" if index else name for name, count in found.items() for index in range(count)]


def methods() -> Dict[str, Any]:
    """Configurations of our methods, by name."""
    points = entry_points(group="nerfstudio.method_configs")
    return {point.name: point.load().config for point in points if point.value.startswith("gnerf_ns.")}


def has_option(config: Any, option: str) -> bool:
    """Whether a command whose options are the fields of `config` shows an option, or some that begin so (`--a.b.*`)."""
    if option == "--help":
        return True
    for name in option[2:].replace("-", "_").removesuffix(".*").split("."):
        kinds = {field.name: field.type for field in fields(config)} if is_dataclass(config) else {}
        if "Suppress" in str(kinds.get(name, "")):
            return False
        if isinstance(config, dict) and name in config:
            config = config[name]
        elif hasattr(config, name):
            config = getattr(config, name)
        else:
            return False
    return True


def command_lines(text: str) -> Iterator[List[str]]:
    """Words of each line of code in a document without comments; what follows a pipe or && is a line of its own."""
    for block, span in CODE.findall(text):
        for line in re.split(r"\n|&&|\|", block or span.replace("\n", " ")):
            try:
                yield shlex.split(line, comments=True)
            except ValueError:  # a quotation mark that is not a shell's
                continue


def named_options(text: str) -> Iterator[Tuple[str, str]]:
    """Each option that is named for a command of ours, and for which: a method, one of `COMMANDS`, or "any method"."""
    for words in command_lines(text):
        if not words:
            continue
        command = words[1] if words[0] == "ns-train" and len(words) > 1 else words[0]
        if re.match(r"--(pipeline|machine|optimizers)\.", command):
            command = "any method"
        elif re.match(r"--(growth|refinement)\.", command):
            command = "gnerf-localize"
        if command not in (*COMMANDS, *methods(), "any method"):
            continue
        for word in words:
            if word == "unposed-data":
                command = word
            elif word.startswith("--"):
                yield command, word.split("=")[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path):
    for link in links(document.read_text("utf8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists() and target.is_relative_to(ROOT), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target.read_text("utf8")), f"{name or document.name} has no heading {anchor}"


def test_links_are_found():
    text = "[`a`](b.md#c) ![d\ne](f.png)\n```\n[g](h)\n```\n[![i](j.png)](k.md)\n"
    assert links(text) == ["b.md#c", "f.png", "k.md"]
    assert len(links(README.read_text("utf8"))) > 10


def test_anchors_are_those_of_github():
    text = "# What `ns-eval` says\n```\n# no heading\n```\n## Few images\n## Twice the size, again\n## Few images\n"
    assert sorted(anchors(text)) == [
        "few-images",
        "few-images-1",
        "twice-the-size-again",
        "what-ns-eval-says",
    ]


def test_readme_is_short():
    assert len(README.read_bytes()) <= MAX_README_BYTES


def test_readme_has_the_two_commands():
    text = README.read_text("utf8")
    assert "```sh\npip install -c constraints.txt -e . && gnerf-demo\n```" in text
    assert '`pip install -c constraints.txt -e ".[test]" && pytest`' in text
    assert 'pip install -c constraints.txt -e ".[test]"' in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_options_exist(document: Path):
    known = methods()
    for command, option in named_options(document.read_text("utf8")):
        configs = COMMANDS.get(command) or ([known[command]] if command in known else known.values())
        assert any(has_option(config, option) for config in configs), f"{command} has no option {option}"


def test_options_that_do_not_exist_are_noticed():
    text = "`ns-train gnerf-ns --data A --pipeline.posse given unposed-data --fov-deg 40`, `--pipeline.schedule.x.*`\n"
    assert list(named_options(text)) == [
        ("gnerf-ns", "--data"),
        ("gnerf-ns", "--pipeline.posse"),
        ("unposed-data", "--fov-deg"),
        ("any method", "--pipeline.schedule.x.*"),
    ]
    config = methods()["gnerf-ns"]
    assert has_option(config, "--data") and has_option(config, "--pipeline.pose-prior.*")
    assert not has_option(config, "--pipeline.posse")
    assert not has_option(config, "--pipeline.schedule.epsilon"), "which help does not show"


def test_every_room_and_every_file_named_in_the_room_map_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf8")
    rooms = {path.parent.name for path in (ROOT / "gnerf_ns").glob("*/__init__.py")}
    assert rooms == set(re.findall(r"^\| `gnerf_ns/(\w+)/`", text, re.MULTILINE))
    for name in re.findall(r"`([\w/]+\.py)`", text):
        assert any((ROOT / folder / name).is_file() for folder in ("gnerf_ns", "method_configs", "")), f"no {name}"
