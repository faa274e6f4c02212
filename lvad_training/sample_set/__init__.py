"""A small rendered driving data set with exact masks and boxes, for demos, tests and first models."""

from lvad_training.sample_set.write import SampleSet, render_sample_set

__all__ = ["SampleSet", "render_sample_set"]
