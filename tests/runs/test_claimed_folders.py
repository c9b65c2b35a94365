"""Folders that one training has for itself, and what is left of those given up."""

from pathlib import Path

import pytest

from gnerf_ns.runs.claimed_folders import claim, give_up


def test_a_folder_that_was_made_for_a_claim_is_gone_with_its_parents(tmp_path: Path):
    folder = tmp_path / "outputs" / "lego" / "now"
    claim(folder)
    (folder / "deep").mkdir()
    (folder / "deep" / "file").touch()
    (folder / "link").symlink_to(tmp_path)
    give_up(folder)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays(tmp_path: Path):
    folder, beside = tmp_path / "lego" / "now", tmp_path / "lego" / "earlier"
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    claim(folder)
    (folder / "config.yml").touch()
    beside.mkdir()
    give_up(folder)
    assert list(folder.iterdir()) == [folder / "notes.txt"] and beside.is_dir()


def test_a_folder_beside_which_another_has_come_goes_alone(tmp_path: Path):
    claim(tmp_path / "lego" / "first")
    claim(tmp_path / "lego" / "second")
    give_up(tmp_path / "lego" / "first")
    assert list((tmp_path / "lego").iterdir()) == [tmp_path / "lego" / "second"]


def test_a_folder_that_nobody_claimed_is_left_alone(tmp_path: Path):
    (tmp_path / "file").touch()
    give_up(tmp_path)
    assert (tmp_path / "file").exists()


def test_a_new_one_must_not_exist_and_an_own_one_may_be_claimed_again(tmp_path: Path):
    claim(tmp_path / "now", is_new=True)
    with pytest.raises(FileExistsError):
        claim(tmp_path / "now", is_new=True)
    claim(tmp_path / "now")


def test_where_it_cannot_be_made_nothing_is_left(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        claim(tmp_path / "file" / "now")
    with pytest.raises(OSError):
        claim(tmp_path / "made" / ("n" * 300))  # longer than names may be
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
