"""BDD100K on disk: label files and masks of every published format -> Truth."""
