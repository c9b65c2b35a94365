"""Which pairs of images are matched: all; or of many, those that look alike or were taken one after the other."""

from typing import List, Sequence

import numpy as np
from jaxtyping import Float, Int

NEIGHBORS_IN_ORDER = 10
"""Images are matched with so many before them in the order of their names, which is time for frames of a video, and
with some farther back at doubling distances."""
LOOK_ALIKES = 20
"""Images are matched with so many that look most alike."""

_NUM_WORDS = 64
_WORD_ROUNDS = 10
_DESCRIPTORS_FOR_WORDS = 20_000


def every_pair(count: int) -> Int[np.ndarray, "pairs 2"]:
    """All pairs of so many images."""
    return np.stack(np.triu_indices(count, k=1), axis=1).astype(np.int64)


def likely_pairs(descriptors: List[Float[np.ndarray, "_ size"]], order: Sequence[int]) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of many images that may show the same things.

    Args:
        descriptors: of each image's features.
        order: all images, as they were taken if they are frames of a video.
    """
    count = len(descriptors)
    chosen = np.zeros((count, count), dtype=bool)
    placed = np.array(order)
    for distance in {*range(1, NEIGHBORS_IN_ORDER + 1), *(2**k for k in range(4, count.bit_length()))}:
        chosen[placed[: count - distance], placed[distance:]] = True
    described = vlad(descriptors)
    alike = described @ described.T
    np.fill_diagonal(alike, -np.inf)
    nearest = np.argsort(-alike, axis=1)[:, :LOOK_ALIKES]
    chosen[np.arange(count)[:, None], nearest] = True
    return np.stack(np.nonzero(np.triu(chosen | chosen.T, k=1)), axis=1).astype(np.int64)


def vlad(descriptors: List[Float[np.ndarray, "_ size"]]) -> Float[np.ndarray, "images description"]:
    """One unit vector per image: residuals of its descriptors from their visual words (VLAD, Jegou et al. 2010).

    With square roots of the residuals' sizes (Jegou and Chum 2012), so that repeated texture does not drown the rest.
    """
    random = np.random.default_rng(0)
    rooted = [np.sqrt(each / np.maximum(each.sum(axis=1, keepdims=True), 1e-9)) for each in descriptors]  # RootSIFT
    everything = np.concatenate(rooted)
    sample = everything[random.permutation(len(everything))[:_DESCRIPTORS_FOR_WORDS]]
    words = sample[: min(_NUM_WORDS, len(sample))]
    for _ in range(_WORD_ROUNDS):
        nearest = _nearest(sample, words)
        sums = np.zeros_like(words)
        np.add.at(sums, nearest, sample)
        counts = np.bincount(nearest, minlength=len(words))[:, None]
        words = np.where(counts > 0, sums / np.maximum(counts, 1), words)
    described = np.zeros((len(descriptors), words.size), dtype=np.float32)
    for row, each in enumerate(rooted):
        if len(each) == 0:
            continue
        nearest = _nearest(each, words)
        residuals = np.zeros_like(words)
        np.add.at(residuals, nearest, each - words[nearest])
        residuals = np.sign(residuals) * np.sqrt(np.abs(residuals))
        described[row] = (residuals / max(float(np.linalg.norm(residuals)), 1e-9)).ravel()
    return described


def _nearest(descriptors: Float[np.ndarray, "n size"], words: Float[np.ndarray, "words size"]) -> Int[np.ndarray, "n"]:
    return (np.square(words).sum(axis=1) - 2 * descriptors @ words.T).argmin(axis=1)
