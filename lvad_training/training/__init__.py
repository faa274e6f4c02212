"""One training, and the stages of a recipe: loop, processes, run folders, provenance."""
