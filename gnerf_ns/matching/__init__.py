"""Local matches between images, and what structure from motion makes of them."""
