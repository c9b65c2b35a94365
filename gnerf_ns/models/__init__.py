"""Models: compose the parts, one render, losses, networks."""
