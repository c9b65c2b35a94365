"""Files to images, masks, lenses and what nerfstudio trains on; true poses are kept apart, for evaluation."""
