"""Pseudo labels: teachers' predictions on unannotated images, written as a data set in BDD100K's layout.

The caller passes a split, teachers as functions from frames to predictions, and this process's rank. ``labels`` is the
entry point; ``teachers`` shares the frames among processes, ``selection`` applies thresholds, ``quality`` counts labels
and compares them with the truth, ``journal`` records finished frames, ``folder`` owns the files.
"""

from lvad_training.pseudo.labels import write_pseudo_labels
from lvad_training.pseudo.quality import PseudoReport
from lvad_training.pseudo.teachers import Teacher

__all__ = ["PseudoReport", "Teacher", "write_pseudo_labels"]
