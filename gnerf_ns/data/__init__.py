"""Files to images, masks, lenses and nerfstudio's data; never true poses to training."""
