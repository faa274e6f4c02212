"""Everything that a GPU should be asked, in one command: ``python -m benchmarks.gpu``."""
