"""The commands of ``lvad-train``, by what they work on; ``cli.py`` puts them together."""
