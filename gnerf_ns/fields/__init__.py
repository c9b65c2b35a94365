"""The scene as a function of space: encodings, fields, and how rays sample them."""
