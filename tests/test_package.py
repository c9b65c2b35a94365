"""The package as installed: its list of packages, entry points, import directions and import weight."""

import ast
import io
import subprocess
import sys
from importlib.metadata import entry_points, version
from itertools import chain
from pathlib import Path
from typing import Dict, Iterator, List, Set

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gnerf_ns
from gnerf_ns.utils.system_libraries import LIBUSB

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]  # pytest brings it

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
METHODS = entry_points(group="nerfstudio.method_configs")
DATAPARSERS = entry_points(group="nerfstudio.dataparser_configs")

# A module imports from its own room and from the layers above its own in this list, never from below or from beside.
LAYERS = (
    {"utils"},
    {"gnerf_ns"},
    {"cameras"},
    {"data"},
    {"fields", "matching", "runs", "scenes", "splats", "viewing"},
    {"models"},
    {"export", "pose_search", "report"},
    {"training"},
    {"localize"},
    {"noposplat"},
    {"demo", "method_configs"},
)


def modules() -> Dict[str, Path]:
    """Every module of ours by its import name."""
    found = {}
    for folder, prefix in ((ROOT / "gnerf_ns", "gnerf_ns"), (ROOT / "method_configs", "gnerf_ns.method_configs")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((prefix, *(part for part in parts if part != "__init__")))] = path
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def layer(module: str) -> int:
    for number, rooms in enumerate(LAYERS):
        if room(module) in rooms:
            return number
    raise AssertionError(f"{module} is in no layer: say in LAYERS where it belongs")


def imports(path: Path, module_level_only: bool = False) -> Iterator[str]:
    """Names of the modules that a file imports; ``from a import b`` gives both ``a`` and ``a.b``."""
    pending: List[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if not (module_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            pending.extend(ast.iter_child_nodes(node))


def python(code: str) -> str:
    """What a fresh Python, started at the repository root, prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_package_list_equals_the_tree():
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(packages)


def test_every_folder_of_modules_is_a_package():
    for path in modules().values():
        assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"


def test_version_is_the_installed_one():
    assert version("gnerf-ns") == gnerf_ns.__version__


def test_installed_entry_points_are_those_of_pyproject():
    for group, declared in PYPROJECT["project"]["entry-points"].items():
        ours = [point for point in entry_points(group=group) if point.value.startswith("gnerf_ns.")]
        assert {point.name: point.value for point in ours} == declared


@pytest.mark.parametrize("name", PYPROJECT["project"]["entry-points"]["nerfstudio.method_configs"])
def test_method_loads_under_its_own_name(name):
    from nerfstudio.plugins.types import MethodSpecification

    specification = METHODS[name].load()
    assert isinstance(specification, MethodSpecification)
    assert specification.config.method_name == name
    assert specification.description


@pytest.mark.parametrize("name", PYPROJECT["project"]["entry-points"]["nerfstudio.dataparser_configs"])
def test_dataparser_loads(name):
    from nerfstudio.plugins.registry_dataparser import DataParserSpecification

    assert isinstance(DATAPARSERS[name].load(), DataParserSpecification)


def test_names_are_unique_and_reach_nerfstudio():
    from nerfstudio.configs.dataparser_configs import all_dataparsers, dataparsers
    from nerfstudio.configs.method_configs import all_methods, method_configs

    for points, stock, everything in (
        (METHODS, method_configs, all_methods),
        (DATAPARSERS, dataparsers, all_dataparsers),
    ):
        names = [point.name for point in points]
        assert len(set(names)) == len(names)
        assert not set(names) & set(stock)
        assert set(names) <= set(everything)


@pytest.mark.parametrize("target", PYPROJECT["project"]["scripts"].values())
def test_console_scripts_exist(target):
    module, function = target.split(":")
    assert function in {node.name for node in ast.parse(modules()[module].read_text()).body if hasattr(node, "name")}  # type: ignore[attr-defined]


def test_imports_go_one_way():
    wrong = []
    for name, path in modules().items():
        for imported in set(imports(path)) & set(modules()):
            if room(imported) != room(name) and layer(imported) >= layer(name):
                wrong.append(f"{name} imports {imported}")
    assert not wrong, wrong


def test_nothing_imports_the_method_configs():
    for name, path in modules().items():
        assert room(name) == "method_configs" or "gnerf_ns.method_configs" not in set(imports(path)), name


def test_dataparsers_stay_clear_of_nerfstudios_import_circle():
    # nerfstudio loads dataparser plugins while it is still importing its datamanagers, pipelines and engine.
    known = modules()
    pending = [name for name in known if name == "gnerf_ns.data.dataparser" or name == "gnerf_ns.data.grown_dataparser"]
    seen: Set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        for imported in set(imports(known[name], module_level_only=True)):
            for forbidden in ("nerfstudio.engine", "nerfstudio.pipelines", "nerfstudio.data.datamanagers"):
                assert not imported.startswith(forbidden), f"{name} imports {imported}"
            parents = {imported.rsplit(".", count)[0] for count in range(imported.count(".") + 1)}
            pending.extend(parents & set(known))
    assert "gnerf_ns.data" in seen


def test_importing_the_package_alone_does_not_load_nerfstudio():
    assert python("import sys, gnerf_ns; print('nerfstudio' in sys.modules)").strip() == "False"


@pytest.mark.parametrize(("program", "files"), [("notebook.py", []), ("ns-render", ["ffmpeg"])])
def test_only_the_commands_change_anything_on_the_machine(tmp_path: Path, program: str, files: List[str]):
    code = (
        "import os, sys\n"
        f"sys.argv[0], sys.prefix = {program!r}, {str(tmp_path)!r}\n"
        "os.environ.update(HOME=sys.prefix, XDG_CACHE_HOME=sys.prefix, PATH='/nowhere')\n"
        "import torch\n"
        "before = dict(os.environ), sys.excepthook\n"
        "import gnerf_ns\n"
        "print(before == (dict(os.environ), sys.excepthook))\n"
    )
    assert (python(code).strip() == "True") == (program == "notebook.py")
    made = {path.name for path in tmp_path.rglob("*") if not path.is_dir()}
    assert made - {LIBUSB} == set(files) and (LIBUSB not in made or program != "notebook.py")


def test_methods_load_nothing_heavy_that_nerfstudio_did_not_load():
    heavy = {"gsplat", "matplotlib", "open3d", "scipy", "skimage", "sklearn", "timm", "torchmetrics", "trimesh"}
    loaded = python(
        "import importlib.metadata, sys\n"
        "importlib.metadata.entry_points = lambda **_: importlib.metadata.EntryPoints()\n"  # nerfstudio by itself
        "import nerfstudio.configs.method_configs\n"
        "assert 'gnerf_ns' not in sys.modules\n"
        "before = set(sys.modules)\n"
        "import gnerf_ns.method_configs.gnerf, gnerf_ns.method_configs.noposplat\n"
        "print(*(set(sys.modules) - before))\n"
    ).split()
    assert "gnerf_ns.method_configs.gnerf" in loaded
    assert heavy & set(loaded) == set()


def test_methods_are_found_at_the_root_without_the_editable_finder():
    code = (
        "import sys\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]\n"
        "import gnerf_ns, gnerf_ns.method_configs\n"
        "print(gnerf_ns.method_configs.__file__)\n"
    )
    assert Path(python(code).strip()) == ROOT / "method_configs" / "__init__.py"


def test_checkpoints_with_numpy_scalars_load():
    checkpoint = io.BytesIO()
    torch.save({"schedulers": {"base_lrs": [np.float64(0.5)]}}, checkpoint)
    checkpoint.seek(0)
    assert torch.load(checkpoint, weights_only=True)["schedulers"]["base_lrs"] == [0.5]


def test_every_dependency_is_pinned_by_name_and_version_only():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line.strip()) for line in lines if line and not line.startswith("#")]
    for pin in pins:
        assert pin.url is None and not pin.extras and [part.operator for part in pin.specifier] == ["=="], pin
    pinned = {canonicalize_name(pin.name) for pin in pins}
    project = PYPROJECT["project"]
    for line in [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]:
        assert canonicalize_name(Requirement(line).name) in pinned
