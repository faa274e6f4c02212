"""Pretraining of the backbone on driving images without labels, with the library ``lightly``."""
