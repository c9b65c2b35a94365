"""Debian's chromium, driven by playwright: tests that import this are skipped where either is missing."""

import shutil
from contextlib import contextmanager
from typing import Any, Iterator

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no chromium: apt-get install chromium", allow_module_level=True)

# WebGL without a GPU; root has no sandbox.
ARGUMENTS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--no-sandbox")


@contextmanager
def opened_browser() -> Iterator[Any]:
    """One of its own, which is closed in the end."""
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield launched
        launched.close()
