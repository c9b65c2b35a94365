"""Where were these images taken? Poses of new images in a trained run of any method."""
