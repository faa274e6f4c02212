"""Published checkpoints of other projects, turned into checkpoints of this package."""
