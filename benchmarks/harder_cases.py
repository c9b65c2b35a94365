"""Wider priors, a wrong focal length, cameras off the origin, fewer and worse images: one table and one plot.

    python benchmarks/harder_cases.py --data LEGO --output FOLDER

Every case is made, trained on once and evaluated, as a user would (2 minutes each on two CPU cores, up to 6 for few
images). Several beside each other (`--jobs 2`), each with its share of the cores, are done sooner: what a run does with
one thread after another it does not do quicker with two. A second call goes on with what the first has not finished;
`--cases` chooses some by their names. Writes `results.json` and `harder_cases.png`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import degraded_images
import matplotlib
import tyro
from training import machine, table_head, table_row, train_and_evaluate

from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.demo.scene import ProceduralSceneConfig, render_procedural_scene

matplotlib.use("Agg")

COLUMNS = ["case", "median °", "max °", "under 5°", "mirrored", "psnr", "psnr_aligned", "train s", "train CPU s"]

PALE = 0.7
"""Of pale things: colors lie so much closer to the white that they are laid over."""


@dataclass(frozen=True)
class Case:
    """Images, and how they are trained on."""

    degraded: Dict[str, Any] = field(default_factory=dict)
    """Fields of `degraded_images.Arguments`; the images are as they are if empty."""
    scene: Optional[ProceduralSceneConfig] = None
    """A scene of our own in place of the data."""
    method: str = "gnerf-ns"
    """Name of the method."""
    options: Tuple[str, ...] = ()
    """Further ones of `ns-train`."""


def cases() -> Dict[str, Case]:
    """All of them, by name."""
    elevation, learn_focal = "--pipeline.pose-prior.elevation-deg", ("--pipeline.focal-length", "shared")
    found = {f"prior{lowest}": Case(options=(elevation, str(lowest), "90")) for lowest in (-30, -60, -90)}
    found["focal-1.2"] = Case({"focal_scale": 1.2}, options=learn_focal)
    found["focal-0.8"] = Case({"focal_scale": 0.8}, options=learn_focal)
    cameras = PosePriorConfig(radius=(0.85, 1.15), look_at_jitter=0.1, roll_deg=(-15.0, 15.0))
    hundred: Dict[str, Any] = {"num_train": 100, "num_test": 25, "image_side": 100}
    found["handheld"] = Case(scene=ProceduralSceneConfig(cameras=cameras, **hundred), method="gnerf-ns-handheld")
    by_hand = PosePriorConfig(radius=(0.75, 1.25), look_at_jitter=0.1, roll_deg=(-20.0, 20.0))
    found["by-hand"] = Case(
        scene=ProceduralSceneConfig(cameras=by_hand, **hundred), options=("--pipeline.matching", "off")
    )
    found["chair"] = Case(scene=ProceduralSceneConfig(subject="chair", **hundred))
    found["pale"] = Case({"pale": PALE})
    found["pale-chair"] = Case({"pale": PALE}, scene=ProceduralSceneConfig(subject="chair", **hundred))
    found.update({f"{views}-views": Case({"views": views}) for views in (50, 25)})
    for views in (12, 6):
        found.update({f"{views}-views-{draw}": Case({"views": views, "seed": draw}) for draw in range(5)})
    found.update({f"noise-{std}": Case({"noise": std}) for std in (0.1, 0.2)})
    found["jpeg-10"] = Case({"jpeg_quality": 10})
    found["outlines"] = Case({"silhouettes": True}, options=("--pipeline.model.background-color", "black"))
    return found


@dataclass
class Arguments:
    """What to run."""

    data: Path
    """Folder in the Blender layout."""
    output: Path
    """Where images, runs and results go."""
    cases: Tuple[str, ...] = tuple(cases())
    """Names of the cases to run."""
    seed: int = 0
    """Of all runs."""
    jobs: int = 1
    """Number of cases that run at a time."""


def main(arguments: Arguments) -> None:
    """Run what is not in the results yet, print all of them as a markdown table, and save the plot."""
    unknown = sorted(set(arguments.cases) - set(cases()))
    if unknown:
        raise SystemExit(f"There is no case {', '.join(unknown)}; there are {', '.join(cases())}.")
    results_path = arguments.output / "results.json"
    asked = {"data": str(arguments.data.resolve()), "seed": arguments.seed}
    saved: Dict[str, Any] = {**asked, "cases": {}}
    if results_path.exists():
        saved = json.loads(results_path.read_text())
    elif arguments.output.exists() and any(arguments.output.iterdir()):
        raise SystemExit(f"{arguments.output} holds something else; give a new folder.")
    if any(saved.get(name) != value for name, value in asked.items()):
        raise SystemExit(f"{results_path} is of other data or another seed; give a new folder.")
    arguments.output.mkdir(parents=True, exist_ok=True)
    results_path.write_text(json.dumps(saved, indent=1))
    results: Dict[str, Dict[str, float]] = saved["cases"]
    print(f"{machine()}; seed {arguments.seed}; {arguments.jobs} at a time\n\n{table_head(COLUMNS)}", flush=True)
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    if arguments.jobs > 1:
        os.environ.update({f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "NUMBA")})
    for name in arguments.cases:
        if name in results:
            print(table_row(cells(name, results[name])), flush=True)
    left = [name for name in arguments.cases if name not in results]
    executor = ThreadPoolExecutor(arguments.jobs)
    running = {executor.submit(measure, arguments, name, cases()[name]): name for name in left}
    try:
        for done in as_completed(running):
            name = running[done]
            results[name] = done.result()
            results_path.write_text(json.dumps(saved, indent=1))
            print(table_row(cells(name, results[name])), flush=True)
    finally:
        executor.shutdown(cancel_futures=True)
    plot(results, arguments.output / "harder_cases.png")


def measure(arguments: Arguments, name: str, case: Case) -> Dict[str, float]:
    """Make the images and train on them: what `ns-eval` says, and the time."""
    data, made = arguments.data, arguments.output / "images"
    if case.scene is not None:
        data = emptied(made / f"{name}-scene")
        render_procedural_scene(data, case.scene)
    if case.degraded:
        source, data = data, emptied(made / name)
        degraded_images.main(degraded_images.Arguments(data=source, output=data, **case.degraded))
    run = arguments.output / name
    if run.exists():
        shutil.rmtree(run)
    training = train_and_evaluate(data, case.method, arguments.seed, arguments.output, name, case.options)
    return {**training.metrics, "wall_s": training.cost.wall_s, "cpu_s": training.cost.cpu_s}


def emptied(folder: Path) -> Path:
    """A folder that is not there yet."""
    if folder.exists():
        shutil.rmtree(folder)
    return folder


def cells(name: str, result: Dict[str, float]) -> List[str]:
    """A row."""
    return [
        name,
        f"{result['rotation_error_deg_median']:.2f}",
        f"{result['rotation_error_deg_max']:.2f}",
        f"{result['rotation_under_5deg']:.0%}",
        "yes" if result["mirrored"] else "no",
        f"{result['psnr']:.2f}",
        f"{result['psnr_aligned']:.2f}",
        f"{result['wall_s']:.0f}",
        f"{result['cpu_s']:.0f}",
    ]


def plot(results: Dict[str, Dict[str, float]], path: Path) -> None:
    """Median and largest rotation error of each case."""
    from matplotlib import pyplot

    names = [name for name in cases() if name in results]
    medians = [results[name]["rotation_error_deg_median"] for name in names]
    largest = [results[name]["rotation_error_deg_max"] for name in names]
    figure, axes = pyplot.subplots(figsize=(7.0, 0.6 + 0.24 * len(names)), layout="constrained")
    axes.hlines(names, medians, largest, color="0.75", linewidth=1.5)
    axes.plot(medians, names, "o", label="median")
    axes.plot(largest, names, "|", markersize=9, markeredgewidth=2, label="largest")
    axes.axvline(5.0, color="0.6", linestyle=":", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 20, 90], ["0.1°", "0.2°", "0.5°", "1°", "2°", "5°", "20°", "90°"])
    axes.invert_yaxis()
    axes.set_xlabel("rotation error of the training images")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
