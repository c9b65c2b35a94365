"""How far confidence can be trusted: what runs say of their poses, against the true ones.

    python benchmarks/confidence.py --runs lego=RUN lego=RUN fox=RUN … --output FOLDER

Every run is a folder with a config.yml, trained on images whose true poses are known, which training never saw; its
group is what stands before the "=". Each is judged anew, as at the end of training. Writes `confidence.json` and
`confidence.png`: how many errors lie within the interval that is said to hold a share of them, and how many images are
wrong of those that are said to be with some probability. Prints a line for each run and a table of the groups.

The angle by which a pose is off is taken to be like the length of a normal deviate in two dimensions: of errors with a
root mean square of sigma, a share p is below sigma sqrt(-ln(1 - p)), 90 % below 1.52 sigma.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List, Tuple

import matplotlib
import numpy as np
import roma
import torch
import tyro
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor
from training import table_head, table_row

from gnerf_ns.cameras.alignment import PoseErrors, pose_errors
from gnerf_ns.cameras.learned_cameras import Split
from gnerf_ns.localize.scene import load_run
from gnerf_ns.pose_search.doubt import WRONG_DEG
from gnerf_ns.training.pipeline import GNeRFPipeline

matplotlib.use("Agg")

COLUMNS = [
    *("group", "images", "wrong", "flagged of these", "flagged of others"),
    *("rotation within 50 %, 90 %", "translation within 50 %, 90 %", "rank correlation (rotation, translation)"),
]
SHARES = np.linspace(0.05, 0.95, 19)
"""For which intervals are drawn."""
PROBABILITY_BINS = np.array([0.0, 0.02, 0.1, 0.3, 0.6, 1.0])


def factor(share: float) -> float:
    """Of sigma, below which a share of errors lies."""
    return math.sqrt(-math.log(1.0 - share))


def main(runs: Tuple[str, ...], output: Path) -> None:
    """Judge and compare.

    Args:
        runs: GROUP=FOLDER each.
        output: where figures go; it must not exist.
    """
    output.mkdir(parents=True)
    groups: Dict[str, List[Dict[str, Any]]] = defaultdict(list)
    for each in runs:
        group, _, folder = each.partition("=")
        judged = judge(Path(folder))
        groups[group].append(judged)
        print(f"{group}: {judged['verdict']}, {judged['seconds']:.1f} s: {judged['sentence']} ({folder})", flush=True)
    (output / "confidence.json").write_text(json.dumps(groups, indent=1))
    print(f"\n{table_head(COLUMNS)}")
    for group, judged in groups.items():
        print(table_row(cells(group, judged)))
    plot(groups, output / "confidence.png")


def judge(run: Path) -> Dict[str, Any]:
    """What is said of a run's images, and how far these are off."""
    _, pipeline = load_run(run / "config.yml")
    assert isinstance(pipeline, GNeRFPipeline)
    pipeline.trust.clear()
    began = time.monotonic()
    pipeline.judge()
    seconds = time.monotonic() - began
    cameras, manager, images = pipeline.cameras, pipeline.datamanager, []
    train_truth = manager.train_ground_truth
    if train_truth is None:
        raise SystemExit(f"{run} has no true poses to compare with.")
    errors = pose_errors(cameras.poses("train").cpu(), train_truth.cpu())
    of_splits: Dict[Split, Any] = {"train": (errors.rotation_deg, errors.translation_relative)}
    if cameras.has_eval_poses and manager.eval_ground_truth is not None:
        of_splits["eval"] = held_out_errors(errors, cameras.poses("eval").cpu(), manager.eval_ground_truth.cpu())
    for split, (rotation, translation) in of_splits.items():
        for index, status in enumerate(pipeline.trust.statuses[split]):
            entries = {**status.entries, "wrong_probability": status.wrong_probability, "split": split}
            images.append({**entries, "rotation": float(rotation[index]), "translation": float(translation[index])})
    verdict = pipeline.trust.verdict
    assert verdict is not None
    return {
        "run": str(run),
        "verdict": verdict.level,
        "sentence": verdict.sentence,
        "seconds": seconds,
        "images": images,
    }


def held_out_errors(
    errors: PoseErrors, estimated: Float[Tensor, "m 3 4"], truth: Float[Tensor, "m 3 4"]
) -> Tuple[Float[Tensor, "m"], Float[Tensor, "m"]]:
    """In degrees and camera distances, in the frame that training images are aligned in."""
    aligned, true = errors.similarity.apply(estimated.double()), truth.double()
    rotation = torch.rad2deg(roma.rotmat_geodesic_distance(aligned[..., :3], true[..., :3]))
    scale = errors.translation_relative.sum() / errors.translation.sum().clamp_min(1e-12)
    return rotation, scale * torch.linalg.vector_norm(aligned[..., 3] - true[..., 3], dim=-1)


def cells(group: str, judged: List[Dict[str, Any]]) -> List[str]:
    """A row of the table. Intervals and correlations are of images that are not wrong altogether."""
    images = [image for each in judged for image in each["images"]]
    wrong = [image for image in images if image["rotation"] > WRONG_DEG]
    right = [image for image in images if image["rotation"] <= WRONG_DEG]
    within, correlations = [], []
    for error, sigma in (("rotation", "rotation_sigma_deg"), ("translation", "translation_sigma_relative")):
        ratios = np.array([image[error] / image[sigma] for image in right])
        within.append(
            ", ".join(f"{float((ratios < factor(share)).mean()):.0%}" for share in (0.5, 0.9)) if right else ""
        )
        correlations.append(correlation(judged, error, sigma))
    return [
        *(group, str(len(images)), str(len(wrong)), f"{sum(image['flagged'] for image in wrong)}"),
        f"{sum(image['flagged'] for image in right)} ({np.mean([image['flagged'] for image in right] or [0]):.0%})",
        *(*within, ", ".join(correlations)),
    ]


def correlation(judged: List[Dict[str, Any]], error: str, sigma: str) -> str:
    """Spearman's, of the training images of each run by themselves: the mean over runs."""
    found = []
    for each in judged:
        rows = [image for image in each["images"] if image["split"] == "train" and image["rotation"] <= WRONG_DEG]
        if len(rows) > 2:
            result: Any = spearmanr([row[sigma] for row in rows], [row[error] for row in rows])
            found.append(float(result.statistic))
    return f"{np.mean(found):.2f}" if found else "-"


def plot(groups: Dict[str, List[Dict[str, Any]]], path: Path) -> None:
    """Reliability of intervals, and of the probability of being wrong."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 5.5))
    for group, judged in groups.items():
        images = [image for each in judged for image in each["images"] if image["rotation"] <= WRONG_DEG]
        if len(images) >= 10:
            ratios = np.array([image["rotation"] / image["rotation_sigma_deg"] for image in images])
            left.plot(SHARES, [(ratios < factor(share)).mean() for share in SHARES], label=f"{group} ({len(images)})")
    left.plot([0, 1], [0, 1], "k--", linewidth=1)
    left.set(
        xlabel="share that is said to lie within", ylabel="share that does", title="Rotation, images that are not wrong"
    )
    left.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    everything = [image for judged in groups.values() for each in judged for image in each["images"]]
    said = np.array([image["wrong_probability"] for image in everything])
    is_wrong = np.array([image["rotation"] > WRONG_DEG for image in everything])
    for low, high in itertools.pairwise(PROBABILITY_BINS):
        chosen = (said >= low) & ((said < high) | (high == 1.0))
        if chosen.any():
            right.plot(said[chosen].mean(), is_wrong[chosen].mean(), "o", color="tab:blue")
            right.annotate(f" {int(chosen.sum())}", (said[chosen].mean(), is_wrong[chosen].mean()))
    right.plot([0, 1], [0, 1], "k--", linewidth=1)
    right.set(xlabel="said to be wrong with probability", ylabel="share that is", title="All images, and how many")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(tyro.cli(main, description=__doc__))
