"""Which images a run is of: names, hashes of the files' content, and lenses, to be kept in its checkpoints.

Estimated poses are rows of a table, in the order of the images. With an image more, less or replaced they would belong
to other images without a word.
"""

from __future__ import annotations

import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from nerfstudio.utils.rich_utils import CONSOLE

from gnerf_ns.utils.errors import InputError

LISTED = 3
"""At most so many files are named for each kind of difference."""

SAME_FOCAL_LENGTH = 1e-3
"""Relative difference up to which focal lengths differ by rounding."""

_CHUNK_BYTES = 2**20


class ImageSource(NamedTuple):
    """Where an image of a run comes from."""

    path: Path
    """Its file."""
    mask: Optional[Path]
    """The file of its mask, if it has one."""
    focal_length: float
    """The horizontal one that was given or guessed, in widths of the image."""


class ImageFile(NamedTuple):
    """One image of a run, as checkpoints have it."""

    name: str
    """Path relative to the folder of the data (absolute if it lies elsewhere): for messages alone."""
    content: str
    """SHA-256 of the file's bytes: what an image is known by, wherever it lies."""
    mask: str
    """That of its mask; empty if it has none."""
    focal_length: float
    """As in `ImageSource`."""


@dataclass(frozen=True)
class RunImages:
    """The images of a run, in the order of its poses."""

    folder: str
    """Of the data; absolute."""
    train: Tuple[ImageFile, ...]
    """Those it is trained on."""
    held_out: Tuple[ImageFile, ...]
    """Those it is evaluated on."""

    @classmethod
    def read(cls, train: Sequence[ImageSource], held_out: Sequence[ImageSource], data: Path) -> RunImages:
        """Of files.

        Args:
            train: training images.
            held_out: held-out images.
            data: folder of the data, or a file (transforms.json) in it.

        Raises:
            InputError: a file cannot be read.
        """
        folder = Path(os.path.abspath(data if data.is_dir() else data.parent))
        sources = [*train, *held_out]
        masks = [source.mask for source in sources if source.mask is not None]
        contents = hashes([source.path for source in sources] + masks)
        masks_by_path = dict(zip(masks, contents[len(sources) :], strict=True))
        images = [
            ImageFile(
                _name(source.path, folder),
                content,
                "" if source.mask is None else masks_by_path[source.mask],
                source.focal_length,
            )
            for source, content in zip(sources, contents[: len(sources)], strict=True)
        ]
        return cls(str(folder), tuple(images[: len(train)]), tuple(images[len(train) :]))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> RunImages:
        """Of what `to_state` has written."""
        train, held_out = (tuple(ImageFile(*image) for image in state[split]) for split in ("train", "held_out"))
        return cls(state["folder"], train, held_out)

    def to_state(self) -> Dict[str, Any]:
        """Text and numbers and lists of them, which any checkpoint may hold."""
        train, held_out = ([list(image) for image in images] for images in (self.train, self.held_out))
        return {"folder": self.folder, "train": train, "held_out": held_out}

    def check_training_images(self, now: RunImages) -> None:
        """Whether cameras of these training images are cameras of others. Other masks are told on the console.

        Names do not matter: files may have been moved or renamed, as long as they still come in the same order.

        Args:
            now: the images that the data has by now.

        Raises:
            InputError: they are others, come in another order, or have other lenses; the sentence says which.
        """
        if _contents(self.train) != _contents(now.train):
            raise InputError(
                f"The images in {now.folder} are not those that the run was trained on: {_differences(self, now)}; "
                "restore them as they were, or train anew."
            )
        pairs = list(zip(self.train, now.train, strict=True))
        for then, image in pairs:
            if not math.isclose(then.focal_length, image.focal_length, rel_tol=SAME_FOCAL_LENGTH):
                raise InputError(
                    f"The lens is not the one that the run was trained with: {image.name} has a focal length of "
                    f"{image.focal_length:.3f} image widths, which was {then.focal_length:.3f}; give the --fov-deg "
                    "(behind the word unposed-data) or transforms.json of then, or train anew."
                )
        masked = [image.name for then, image in pairs if then.mask != image.mask]
        if masked:
            CONSOLE.print(
                f"Not the masks that the run was trained with: {_listed((masked, 'has another', 'have others'))}.",
                style="yellow",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def has_held_out_images_of(self, now: RunImages) -> bool:
        """Whether cameras of these held-out images are cameras of others."""
        return [image[1:] for image in self.held_out] == [image[1:] for image in now.held_out]


def hashes(files: Sequence[Path]) -> List[str]:
    """SHA-256 of each file.

    Raises:
        InputError: a file cannot be read.
    """
    # Threads, because both reading and hashing release the GIL.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as executor:
        return list(executor.map(_hash, files))


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"The image {path} cannot be read ({error.strerror}); replace or remove it.") from error
    return digest.hexdigest()


def _name(path: Path, folder: Path) -> str:
    path = Path(os.path.abspath(path))
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _contents(images: Sequence[ImageFile]) -> List[str]:
    return [image.content for image in images]


def _differences(then: RunImages, now: RunImages) -> str:
    """In words, of both splits together: an image more or less shifts which ones are held out."""
    before = {image.name: image.content for image in (*then.train, *then.held_out)}
    after = {image.name: image.content for image in (*now.train, *now.held_out)}
    changed = [name for name, content in before.items() if after.get(name, content) != content]
    gone = [name for name in before.keys() - after.keys() if before[name] not in after.values()]
    new = [name for name in after.keys() - before.keys() if after[name] not in before.values()]
    if len(gone) == len(before):
        return f"none of its {len(before)} images is among the {len(after)} that are there"
    if changed or gone or new:
        return _listed(
            (gone, "is missing", "are missing"),
            (new, "is new", "are new"),
            (changed, "has other content", "have other content"),
        )
    names = {content: name for name, content in before.items()}
    renamed = [f"{names[content]} (now {name})" for name, content in after.items() if name not in before]
    if renamed:
        return _listed((renamed, "has another name", "have other names"))
    trained = {image.name for image in then.train}
    came = [image.name for image in now.train if image.name not in trained]
    went = [image.name for image in now.held_out if image.name in trained]
    if came or went:
        return _listed((went, "is held out now", "are held out now"), (came, "was held out", "were held out"))
    return "they come in another order"


def _listed(*kinds: Tuple[Sequence[str], str, str]) -> str:
    """Names with what is said of them, in the singular or the plural."""
    parts = []
    for names, of_one, of_many in kinds:
        if names:
            more = [f"{len(names) - LISTED} more"] if len(names) > LISTED else []
            words = [*sorted(names)[:LISTED], *more]
            listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
            parts.append(f"{listed} {of_one if len(names) == 1 else of_many}")
    return ", ".join(parts)
