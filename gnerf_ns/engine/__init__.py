"""What nerfstudio's trainer needs from us."""
