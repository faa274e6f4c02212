"""Imports OpenCV, with a one-sentence error where that fails."""

import contextlib
import io
import sys

from lvad_perception.errors import MissingDependencyError


def import_opencv() -> None:
    """Import OpenCV at a point where a failure can be reported; later imports of cv2 then succeed.

    Raises:
        MissingDependencyError: it is not installed, was built for another numpy, or lacks a system library.
    """
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):  # numpy prints a page of text when its version does not match
            import cv2  # noqa: F401
    except ImportError as err:
        raise MissingDependencyError(_explanation(err, stderr.getvalue())) from err
    sys.stderr.write(stderr.getvalue())


def _explanation(err: ImportError, stderr: str) -> str:
    if isinstance(err, ModuleNotFoundError) and err.name == "cv2":
        return (
            f"OpenCV is not installed for {sys.executable}; install it with: sudo apt install python3-opencv, or "
            "without ROS pip install 'opencv-python-headless<5'"
        )
    if isinstance(err, ModuleNotFoundError):
        return f"OpenCV needs {err.name}, which is not installed for {sys.executable}; pip install {err.name}"
    if "numpy" in f"{err} {stderr}".lower():
        import numpy as np

        newer = int(np.__version__.partition(".")[0]) >= 2
        built_for, remedy = ("numpy 1", "'numpy<2'") if newer else ("a newer one", "--upgrade numpy")
        return (
            f"OpenCV cannot be imported with numpy {np.__version__}, since it was built for {built_for}; into the "
            f"environment of {sys.executable}, pip install {remedy}"
        )
    if "shared object" in str(err):  # such as opencv-python's libGL.so.1 on a machine without a display
        return (
            f"OpenCV cannot be imported ({err}); install that library, or pip install 'opencv-python-headless<5' in "
            "place of opencv-python"
        )
    return f"OpenCV cannot be imported ({err}); pip install --force-reinstall 'opencv-python-headless<5'"
