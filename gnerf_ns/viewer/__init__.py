"""What nerfstudio's viewer shows of cameras that are being learned."""
