"""Pseudo labels: what teachers predict for images that nobody annotated, as a data set in BDD100K's layout.

The room is handed what it uses: a split, teachers as functions from frames to predictions, and who it is among the
processes. ``teachers`` asks them, ``matching`` and ``selection`` decide what of a prediction becomes a label,
``quality`` counts and compares, ``journal`` remembers what is done, ``folder`` writes, ``labels`` puts them together.
"""

from lvad_training.pseudo.labels import write_pseudo_labels
from lvad_training.pseudo.quality import PseudoReport
from lvad_training.pseudo.teachers import Teacher

__all__ = ["PseudoReport", "Teacher", "write_pseudo_labels"]
