"""Contractions and encodings."""
