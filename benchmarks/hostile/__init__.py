"""Hostile input for both packages; see ``__main__``."""
