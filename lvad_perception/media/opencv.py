"""OpenCV imported, or one sentence on why it cannot be."""

import contextlib
import io
import sys

from lvad_perception.errors import MissingDependencyError


def import_opencv() -> None:
    """Import OpenCV where its failure can still be told; whatever needs it imports it as usual afterwards.

    Raises:
        MissingDependencyError: it is not installed, was built for another numpy, or lacks a library of the system.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):  # numpy tells of another numpy in a page of text and a traceback
            import cv2  # noqa: F401
    except ImportError as err:
        raise MissingDependencyError(_sentence(err, told.getvalue())) from err
    sys.stderr.write(told.getvalue())


def _sentence(err: ImportError, told: str) -> str:
    if isinstance(err, ModuleNotFoundError) and err.name == "cv2":
        return (
            f"OpenCV is not installed for {sys.executable}; install it with: sudo apt install python3-opencv, or "
            "without ROS pip install 'opencv-python-headless<5'"
        )
    if isinstance(err, ModuleNotFoundError):
        return f"OpenCV needs {err.name}, which is not installed for {sys.executable}; pip install {err.name}"
    if "numpy" in f"{err} {told}".lower():
        import numpy as np

        newer = int(np.__version__.partition(".")[0]) >= 2
        built_for, remedy = ("numpy 1", "'numpy<2'") if newer else ("a newer one", "--upgrade numpy")
        return (
            f"OpenCV cannot be imported with numpy {np.__version__}, since it was built for {built_for}; into the "
            f"environment of {sys.executable}, pip install {remedy}"
        )
    if "shared object" in str(err):  # opencv-python's libGL.so.1 on a machine without a display, for one
        return (
            f"OpenCV cannot be imported ({err}); install that library, or pip install 'opencv-python-headless<5' in "
            "place of opencv-python"
        )
    return f"OpenCV cannot be imported ({err}); pip install --force-reinstall 'opencv-python-headless<5'"
