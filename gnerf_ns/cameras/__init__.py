"""Pose algebra: look-at, 9-D codec, pose prior, pose table, similarity alignment and pose errors."""
