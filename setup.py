"""Package definition for colcon (ament_python) and pip.

colcon installs no Python dependencies: on a vehicle they come from rosdep, see package.xml. pip installs
``install_requires``, the dependencies of perception without ROS, and the requested extras.
"""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "lvad_perception"
VERSION = next(
    line.split('"')[1]
    for line in Path("lvad_perception/__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)


def _files(pattern: str) -> list[str]:
    return [str(path) for path in sorted(Path().glob(pattern))]


EXTRAS = {
    # Offline training and evaluation.
    "train": [
        "torch>=2.4",
        "torchvision>=0.19",
        "timm>=1.0.17",
        "accelerate>=1.0",
        "safetensors>=0.4.3",
        # Text towers of the language prior; the vehicle needs neither.
        "open_clip_torch>=3.0",
        "transformers>=5.0",
        # transformers accepts any version, but imports newer names.
        "tqdm>=4.64",
        "scipy>=1.8",
        "tensorboard>=2.14",
        "pyyaml>=6.0.1",
        "msgspec>=0.18.6",
        "pillow>=10.3",
        "simplejpeg>=1.7",
    ],
    # Export to a model file: the lowest torch and onnxscript whose exports agree.
    "export": ["torch>=2.14", "onnx>=1.17", "onnxscript>=0.7"],
    # Bags without ROS, and BDD100K labels into bags.
    # simplejpeg reports damage that OpenCV hides; the lowest rosbags that installs Python's own zstd module.
    "bags": ["rosbags>=0.11.7", "msgspec>=0.18.6", "pillow>=10.3", "simplejpeg>=1.7"],
    # Average precision of boxes.
    "eval": ["faster-coco-eval>=1.6.5"],
    # Video files in and out.
    "video": ["av>=17.0"],
    # TensorRT engines and `optimize`; on a Jetson torch and TensorRT come with the system.
    # Wheels of 10.0 and 10.1 do not pin TensorRT's libraries and get those of 11.
    "tensorrt": ["tensorrt>=10.2,<11", "torch>=2.4", "onnx>=1.17"],
    # A faster CPU runtime, and INT8 for it.
    "openvino": ["openvino>=2025.4", "onnx>=1.17"],
    # Backbones from frames without labels.
    "pretrain": ["lightly>=1.6"],
    # The documentation as a site.
    "docs": [
        "mkdocs>=1.6",
        "mkdocs-material>=9.6",
        "mkdocstrings[python]>=1.0",
        # mkdocstrings' last release for Python 3.10 cannot call the highlighter of later ones.
        "pymdown-extensions<12.2; python_version < '3.11'",
    ],
    "test": [
        # ROS 2's launch_testing loads itself as a pytest plugin; that of Humble and Jazzy has a hook with the argument
        # `path`, with which pytest 9.1 does not start (nor the withdrawn 8.1.0): docs/ros.md, Test.
        "pytest>=7.4,<9",
        "pytest-timeout>=2.2",
        "pytest-xdist>=3.5",
        "hypothesis>=6.100",
        "pycocotools>=2.0.7",
        "ruff>=0.14",
        "mypy>=1.14",
        "types-PyYAML",
        "types-tqdm",
        # Dependencies of ROS 2's launch and rclpy, which the virtual environment does not take from the system.
        "lark>=1.1",
        "packaging>=21",
        "psutil>=5.9",
        "pyyaml>=6.0.1",
    ],
}

setup(
    name=NAME,
    version=VERSION,
    description="LV-Adapter multi-task perception for ROS 2: traffic objects, semantic segmentation, drivable area",
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["lvad_perception*", "lvad_training*"]),
    package_data={"": ["py.typed"], "lvad_training": ["weights/*.pt"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        # Executables for ros2 run and ros2 launch. As console scripts pip would put these common names on PATH.
        (f"lib/{NAME}", _files("scripts/*")),
        (f"share/{NAME}/launch", _files("launch/*.launch.py")),
        (
            f"share/{NAME}/config",
            [file for kind in ("yaml", "rviz", "json", "xml") for file in _files(f"config/*.{kind}")],
        ),
    ],
    # The lowest versions with which the tests pass; numpy's is that of ROS 2 Humble.
    install_requires=[
        "numpy>=1.21",
        # With ROS, apt's python3-opencv is used instead; pip does not see it, but is not run there.
        "opencv-python-headless>=4.6,<5",
        "onnxruntime>=1.18",
        "tqdm>=4.57",
    ],
    extras_require=EXTRAS,
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "lvad-perception = lvad_perception.cli:main",
            "lvad-train = lvad_training.cli:main",
            "lvad-perception-node = lvad_perception.node.main:main",
            "lvad-evaluation-node = lvad_perception.node.evaluation:main",
        ]
    },
)
