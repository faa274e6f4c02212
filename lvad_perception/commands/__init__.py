"""Commands of ``lvad-perception``, assembled in ``cli.py``."""
