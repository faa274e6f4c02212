"""A small rendered driving set in BDD100K's layout, with exact masks and boxes, for demos, tests and first models."""

from lvad_training.sample_set.write import SampleSet, render_sample_set

__all__ = ["SampleSet", "render_sample_set"]
