"""LV-Adapter perception on the vehicle: camera frame -> boxes, semantic mask and drivable-area mask."""

__version__ = "0.1.0"
