"""Recipes: their keys and defaults, the presets, and how a YAML file becomes a checked recipe."""
