"""Cameras: how poses, up direction and focal lengths are learned, their prior, rays, alignment and errors, plots."""
