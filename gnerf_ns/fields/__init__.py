"""Radiance and density fields."""
