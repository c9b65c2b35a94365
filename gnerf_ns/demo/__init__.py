"""`gnerf-demo`: a small scene of our own, rendered, trained on without poses, and filmed."""
