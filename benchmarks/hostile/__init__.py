"""Hostile input for both packages, see ``__main__``, and ``kill -9`` of long commands, see ``kills``."""
