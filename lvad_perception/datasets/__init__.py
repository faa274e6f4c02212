"""Annotated data sets on disk, each behind the protocol ``datasets.split.Split``."""
