"""Many scenes with known cameras to learn from: read from files or made by seed, and which views of them."""
