"""Reading images without poses."""
