"""Learning a field and its cameras together: one training step, its objectives, evaluation."""
