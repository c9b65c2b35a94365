"""Hand whole small images and ray batches to training, never ground-truth poses."""
