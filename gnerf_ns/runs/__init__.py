"""Any training run: its folder and checkpoints, how it ends, what the terminal shows meanwhile."""
