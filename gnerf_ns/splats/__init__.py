"""Scenes of 3D Gaussians: what they are, their images, and their files."""
