"""A checkpoint to a model file, checked against torch before it is kept."""
