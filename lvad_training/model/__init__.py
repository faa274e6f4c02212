"""The network: backbone, neck, query heads."""
