"""Photographs with and without a room around them: one table of how well their cameras are found.

    python benchmarks/real_photos.py --data FOLDER_OF_SETS --output FOLDER

Every set is a folder of images, with masks where there are any; a transforms.json in it gives the lens, and poses that
are used for evaluation only. Each is trained on and evaluated as a user would, one after the other, then those of its
`variants` that `--sets` names (fox-spoiled is set fox with spoiled images). A second call goes on with what the first
has not finished. Writes `results.json`, and beside each run a picture of its cameras and one of held-out photographs,
each above its rendering.

Errors are those of all images with a pose in `estimated_poses/transforms.json`, held-out ones too, after the best
similarity. Where poses of the set are only good to some tenths of a degree, so are these.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Optional, Tuple

import changed_photos
import torch
import tyro
from changed_photos import read_layout
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from training import RENDERINGS, machine, run, table_head, table_row, train_and_evaluate

from gnerf_ns.cameras.alignment import pose_errors

COLUMNS = [
    *("set", "with a pose", "under 5°", "median °", "max °", "max of trusted °", "flagged"),
    *("psnr", "psnr_aligned", "train s", "train CPU s"),
]
MAX_PHOTOS = 8
"""Held-out photographs on a picture."""
HALVES = str(Path(__file__).with_name("train_in_halves.py"))


@dataclass(frozen=True)
class Variant:
    """A set, and how it is made harder."""

    changed: Dict[str, Any] = field(default_factory=dict)
    """Fields of `changed_photos.Arguments`; the set is as it is if empty."""
    options: Tuple[str, ...] = ()
    """Further ones of `ns-train`."""
    in_halves: bool = False
    """Whether matches between the first and the second half of the images are taken away."""


def variants() -> Dict[str, Variant]:
    """All of them, by what their names end with."""
    off, given = ("--pipeline.matching", "off"), ("--pipeline.poses", "given")
    noise = {"rotation_noise_deg": 10.0, "distance_noise": 0.1, "outliers": 0.05}
    return {
        "": Variant(),
        **{f"-{count}": Variant({"count": count}) for count in (12, 9, 7, 6, 4, 3)},
        "-spoiled": Variant({"spoiled": 27}),
        "-halves": Variant(in_halves=True),
        "-unmasked": Variant({"without_masks": True}),
        "-unmatched": Variant(options=off),
        "-rough": Variant(noise, given),
        "-rough-unmatched": Variant(noise, (*given, *off)),
        "-exact": Variant(options=given),
        "-exact-unmatched": Variant(options=(*given, *off)),
    }


@dataclass
class Arguments:
    """What to run."""

    data: Path
    """Folder of sets."""
    output: Path
    """Where runs and results go."""
    sets: Tuple[str, ...] = ()
    """Names of the sets, or of their variants; all sets as they are by default."""
    options: Tuple[str, ...] = ()
    """Further ones of `ns-train`."""
    seed: int = 0
    """Of all runs, and of what is random in variants."""
    against_colmap: bool = False
    """Also find the poses by COLMAP, as an expert runs it (`colmap_expert.py`)."""


def main(arguments: Arguments) -> None:
    """Run what is not in the results yet, and print all of them as a markdown table."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "results.json"
    results: Dict[str, Dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    folders = {folder.name: folder for folder in sorted(arguments.data.iterdir()) if (folder / "images").is_dir()}
    folders.update({each.parent.name: each.parent for each in arguments.data.glob("*/transforms_train.json")})
    known = {f"{name}{end}": (folder, each) for name, folder in folders.items() for end, each in variants().items()}
    unknown = sorted(set(arguments.sets) - set(known))
    if unknown:
        raise SystemExit(f"There is no set {', '.join(unknown)}; there are {', '.join(known)}.")
    print(f"{machine()}; seed {arguments.seed}\n\n{table_head(COLUMNS)}", flush=True)
    for name in arguments.sets or folders:
        if name not in results:
            results[name] = measure(arguments, name, *known[name])
            path.write_text(json.dumps(results, indent=1))
        print(table_row(cells(name, results[name])), flush=True)
        theirs = f"{name}, COLMAP"
        if arguments.against_colmap and theirs not in results:
            results[theirs] = measure_colmap(arguments, name, *known[name])
            path.write_text(json.dumps(results, indent=1))
        if arguments.against_colmap:
            print(table_row(cells(theirs, results[theirs])), flush=True)


def measure(arguments: Arguments, name: str, folder: Path, variant: Variant) -> Dict[str, Any]:
    """Train and evaluate: what `ns-eval` says, how well poses fit the set's own, and the time."""
    data = images_of(arguments, name, folder, variant)
    folder_of_run = arguments.output / name
    if folder_of_run.exists():
        shutil.rmtree(folder_of_run)
    training = train_and_evaluate(
        *(data, "gnerf-ns", arguments.seed, arguments.output, name, (*variant.options, *arguments.options)),
        program=(sys.executable, HALVES) if variant.in_halves else ("ns-train",),
    )
    frames = json.loads((training.folder / "estimated_poses" / "transforms.json").read_text())["frames"]
    shutil.copyfile(training.folder / "estimated_poses" / "cameras.png", arguments.output / f"{name}-cameras.png")
    save_photos(training.folder / RENDERINGS, arguments.output / f"{name}-photos.png")
    metrics = {key: training.metrics[key] for key in ("psnr", "psnr_aligned") if key in training.metrics}
    # Poses that training began with may be rough: they say nothing of the field at exact ones.
    if "rotation_noise_deg" in variant.changed:
        metrics.pop("psnr_aligned", None)
    cost = {"wall_s": training.cost.wall_s, "cpu_s": training.cost.cpu_s}
    return {**metrics, **of_poses(frames, reference_poses(folder)), **cost}


def images_of(arguments: Arguments, name: str, folder: Path, variant: Variant) -> Path:
    """Folder of a variant's images; they are made where they differ from the set's."""
    if not variant.changed:
        return folder
    data = arguments.output / "images" / name
    if not data.exists():
        changed_photos.main(changed_photos.Arguments(data=folder, output=data, seed=arguments.seed, **variant.changed))
    return data


def measure_colmap(arguments: Arguments, name: str, folder: Path, variant: Variant) -> Dict[str, Any]:
    """The same of the poses that COLMAP finds."""
    expert, written = Path(__file__).with_name("colmap_expert.py"), arguments.output / f"{name}-colmap.json"
    command = [sys.executable, str(expert), "--data", str(images_of(arguments, name, folder, variant))]
    command += ["--output", str(written), "--seed", str(arguments.seed)]
    cost = run(command, arguments.output / f"{name}-colmap.log")
    frames = [{"file_path": file, "transform_matrix": pose} for file, pose in json.loads(written.read_text()).items()]
    return {**of_poses(frames, reference_poses(folder)), "wall_s": cost.wall_s, "cpu_s": cost.cpu_s}


def save_photos(renderings: Path, path: Path) -> None:
    """Held-out photographs, above what the field shows of them, above the differences."""
    rows = 3  # which `ns-eval` puts side by side
    found = [Image.open(file) for file in sorted(renderings.glob("eval_img_*.png"))[:MAX_PHOTOS]]
    if not found:
        return
    width, height = found[0].width // rows, found[0].height
    sheet = Image.new("RGB", (width * len(found), rows * height))
    for column, image in enumerate(found):
        for row in range(rows):
            sheet.paste(image.crop((row * width, 0, (row + 1) * width, height)), (column * width, row * height))
    sheet.save(path)


def reference_poses(folder: Path) -> Optional[Dict[str, Float[Tensor, "3 4"]]]:
    """camera_to_worlds that a set came with, by its images' names without their endings; None if it came without."""
    if not (folder / "transforms.json").exists() and not (folder / "transforms_train.json").exists():
        return None
    frames = read_layout(folder)["frames"]
    for test in folder.glob("transforms_test.json"):
        frames = [*frames, *json.loads(test.read_text())["frames"]]
    return poses_by_name(frames)


def poses_by_name(frames: List[Dict[str, Any]]) -> Dict[str, Float[Tensor, "3 4"]]:
    """camera_to_worlds, by folder and name of the image without its ending."""
    return {
        "/".join(Path(frame["file_path"]).with_suffix("").parts[-2:]): torch.tensor(frame["transform_matrix"])[:3]
        for frame in frames
    }


def of_poses(frames: List[Dict[str, Any]], reference: Optional[Dict[str, Float[Tensor, "3 4"]]]) -> Dict[str, float]:
    """How many images have a pose, how many of those are named flagged, and errors where they can be known."""
    flagged = [bool(frame.get("flagged")) for frame in frames]
    figures: Dict[str, float] = {"posed": len(frames), "flagged": sum(flagged)}
    if reference is None or len(frames) < 3:  # too few to align
        return figures
    found = poses_by_name(frames)
    # A run names images from the folder that holds them all.
    in_any_folder = {PurePosixPath(name).name: pose for name, pose in reference.items()}
    truth = [reference.get(name, in_any_folder[PurePosixPath(name).name]) for name in found]
    errors = pose_errors(torch.stack(list(found.values())), torch.stack(truth))
    degrees = errors.rotation_deg
    figures.update(
        rotation_error_deg_median=float(degrees.median()),
        rotation_error_deg_max=float(degrees.max()),
        rotation_under_5deg=int((degrees < 5.0).sum()),
    )
    if not all(flagged):
        figures["trusted_rotation_error_deg_max"] = float(degrees[~torch.tensor(flagged)].max())
    return figures


def cells(name: str, result: Dict[str, Any]) -> List[str]:
    """A row; what needs reference poses is left empty where there are none."""

    def figure(key: str, style: str) -> str:
        return format(result[key], style) if key in result else ""

    return [
        name,
        str(result["posed"]),
        figure("rotation_under_5deg", "d"),
        figure("rotation_error_deg_median", ".2f"),
        figure("rotation_error_deg_max", ".2f"),
        figure("trusted_rotation_error_deg_max", ".2f"),
        str(result["flagged"]),
        figure("psnr", ".2f"),
        figure("psnr_aligned", ".2f"),
        figure("wall_s", ".0f"),
        figure("cpu_s", ".0f"),
    ]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
