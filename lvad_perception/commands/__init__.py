"""The commands of ``lvad-perception``, by what they work on; ``cli.py`` puts them together."""
