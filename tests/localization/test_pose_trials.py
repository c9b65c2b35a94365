"""A photograph that was put in a wrong place is found out by a field that begins anew."""

import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, model_of, photographs_of, random_poses
from torch import Tensor

from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.cameras.pose_table import PoseTable
from gnerf_ns.localization.pose_matcher import PoseMatcher
from gnerf_ns.localization.pose_search import PoseSearch, PoseSearchConfig
from gnerf_ns.localization.pose_trials import PoseTrials, PoseTrialsConfig, angles_deg
from gnerf_ns.localization.young_field import YoungField, YoungFieldConfig
from gnerf_ns.model_components.hash_radiance import HashRadianceConfig
from gnerf_ns.models.gnerf import GNeRFModel

RADIANCE = HashRadianceConfig(num_levels=4, max_resolution=32, num_proposal_samples=24, num_nerf_samples=12)
TRUTH = random_poses(10, seed=3)
PAIR = [2, 6]
"""Two that will be taken to where nobody was."""

