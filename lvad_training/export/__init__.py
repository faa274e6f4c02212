"""Export of a checkpoint to a model file, which is compared with torch before it is written."""
