"""Offline training of LV-Adapter models: from images and labels to a model file."""
