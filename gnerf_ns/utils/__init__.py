"""Errors, console commands, checkpoints, and what depends on the machine."""
