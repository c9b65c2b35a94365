import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gnerf_ns.utils.system_libraries import missing_export_libraries

# ns-export and its libraries are heavy and need parts of the system: imported where they are used.
pytestmark = pytest.mark.skipif(bool(missing_export_libraries()), reason="ns-export lacks system libraries here")

REACH = 1.0 + 2 * (2 / 32)
"""The fog fills the unit ball; surfaces from volumes of 32 cells a side lie up to two cells outside."""


def test_cameras_are_the_estimated_ones(finished_run, tmp_path: Path):
    from nerfstudio.scripts.exporter import ExportCameraPoses

    ExportCameraPoses(finished_run.config_path, tmp_path).main()
    for file, split in (("transforms_train.json", "train"), ("transforms_eval.json", "eval")):
        frames = json.loads((tmp_path / file).read_text())
        found = torch.tensor([frame["transform"] for frame in frames])
        torch.testing.assert_close(found, finished_run.cameras(split).camera_to_worlds)


def test_point_cloud_holds_the_object_and_not_its_background(finished_run, tmp_path: Path):
    import open3d
    from nerfstudio.scripts.exporter import ExportPointCloud

    ExportPointCloud(finished_run.config_path, tmp_path, num_points=3000, num_rays_per_batch=2048).main()
    cloud = open3d.io.read_point_cloud(str(tmp_path / "point_cloud.ply"))  # type: ignore[arg-type]
    distances = np.linalg.norm(np.asarray(cloud.points), axis=1)
    assert len(distances) > 2500 and distances.max() < 1 and np.median(distances) > 0.6
    lengths = np.linalg.norm(np.asarray(cloud.normals), axis=1)
    assert np.median(np.abs(lengths - 1)) < 1e-3  # a point inside a flat stretch of fog has none


def test_tsdf_mesh_has_the_object_s_surface(finished_run, tmp_path: Path):
    import trimesh
    from nerfstudio.scripts.exporter import ExportTSDFMesh

    ExportTSDFMesh(
        finished_run.config_path, tmp_path, downscale_factor=1, resolution=[32, 32, 32], texture_method="tsdf"
    ).main()
    mesh = trimesh.load(tmp_path / "tsdf_mesh.ply")
    # Seven cameras leave corners of the volume unseen, and nerfstudio takes what was not seen for solid.
    distances = np.linalg.norm(mesh.vertices, axis=1)  # type: ignore[union-attr]
    assert ((distances > 0.8) & (distances < REACH)).sum() > 200


def test_poisson_mesh_is_the_object_alone(finished_run, tmp_path: Path):
    import trimesh
    from nerfstudio.scripts.exporter import ExportPoissonMesh

    ExportPoissonMesh(
        finished_run.config_path,
        tmp_path,
        num_points=4000,
        num_rays_per_batch=2048,
        target_num_faces=500,
        num_pixels_per_side=32,
    ).main()
    mesh = trimesh.load(tmp_path / "poisson_mesh.ply")
    assert np.linalg.norm(mesh.vertices, axis=1).max() < REACH  # type: ignore[union-attr]
    assert (tmp_path / "mesh.obj").exists() and (tmp_path / "material_0.png").exists()
