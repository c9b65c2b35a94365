"""The pose of an image in a given field: candidates, local search, gradient descent."""
