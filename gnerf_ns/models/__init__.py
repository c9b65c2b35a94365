"""The nerfstudio model, the networks of adversarial training, their losses, and image metrics."""
