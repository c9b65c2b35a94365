"""`gnerf-export-poses`, and what a run leaves for other programs: estimated cameras, and points on the surface."""
