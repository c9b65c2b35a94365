"""3D Gaussians and how they are rendered."""
