"""LV-Adapter training: images and labels -> model file."""
