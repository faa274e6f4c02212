"""Pretraining of the backbone on driving images without labels, by the methods of the library ``lightly``."""
