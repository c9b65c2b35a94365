"""NoPoSplat (Ye et al., ICLR 2025): images without poses in, 3D Gaussians in the first camera's frame out."""
