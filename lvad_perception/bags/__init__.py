"""Recorded drives: BDD100K or video -> bag, bag -> predictions, predictions -> metrics."""
