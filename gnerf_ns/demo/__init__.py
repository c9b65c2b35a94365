"""`gnerf-demo`: a small scene of our own, trained on its bare images."""
