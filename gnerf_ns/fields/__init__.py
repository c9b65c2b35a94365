"""The scene as a function of space: encodings, fields, and the sampling of rays."""
