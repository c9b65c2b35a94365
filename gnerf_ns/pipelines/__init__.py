"""What happens in one training step, per phase, and evaluation."""
