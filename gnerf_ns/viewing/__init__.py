"""What nerfstudio's viewer shows of cameras and photos: frusta, colors, a walk from photo to photo."""
