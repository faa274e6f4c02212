"""Who may import whom. The tables below are the rules; `violations` reads the sources with ``ast`` and applies them.

A *room* is a module or folder directly inside one of the two packages. A room imports rooms of lower layers, never a
sibling of its own layer, never upwards. A new room has to be put into a layer here.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS = {
    "lvad_perception": [
        {"types", "vocabulary", "errors", "machine"},
        {"files", "command_line", "preprocess"},
        {"media"},
        {"manifest", "topics", "postprocess", "metrics", "datasets"},
        {"provenance", "report", "engines", "messages"},
        {"perceiver"},
        {"bags", "conversion"},
        {"node"},
        {"profiling"},
        {"commands"},
        {"cli"},
    ],
    "lvad_training": [
        {"recipe", "boxes"},
        {"samples", "checkpoints"},
        {"decoding", "data", "model", "losses", "pseudo"},
        {"build"},
        {"export", "training", "zoo"},
        {"pretrain", "report", "sample_set"},
        {"reproduce", "distil"},
        {"demo"},
        {"commands"},
        {"cli"},
    ],
}

# What training shares with the vehicle; perception never imports training.
SHARED_WITH_TRAINING = {
    "types",
    "vocabulary",
    "errors",
    "files",
    "command_line",
    "machine",
    "manifest",
    "engines.agreement",
    "media",
    "preprocess",
    "postprocess",
    "metrics",
    "report",
    "datasets",
    "provenance",
}

# Libraries that only some files may import: name -> path prefixes.
CONFINED = {
    "rclpy": ["lvad_perception/node/"],
    "cv_bridge": ["lvad_perception/node/"],
    "diagnostic_updater": ["lvad_perception/node/"],
    "diagnostic_msgs": ["lvad_perception/node/"],
    "lifecycle_msgs": ["lvad_perception/node/"],
    "rcl_interfaces": ["lvad_perception/node/"],
    "rosbag2_interfaces": ["lvad_perception/node/"],
    "builtin_interfaces": ["lvad_perception/node/", "lvad_perception/messages.py"],
    "geometry_msgs": ["lvad_perception/node/", "lvad_perception/messages.py"],
    "sensor_msgs": ["lvad_perception/node/", "lvad_perception/messages.py"],
    "std_msgs": ["lvad_perception/node/", "lvad_perception/messages.py"],
    "vision_msgs": ["lvad_perception/node/", "lvad_perception/messages.py"],
    "rosbags": ["lvad_perception/bags/", "lvad_perception/messages.py"],
    "onnxruntime": ["lvad_perception/engines/onnx.py", "lvad_training/export/model_file.py"],
    "openvino": ["lvad_perception/engines/openvino.py"],
    "tensorrt": ["lvad_perception/engines/tensorrt", "lvad_perception/conversion/tensorrt_build.py"],
    "torch2trt": ["lvad_perception/engines/tensorrt", "lvad_perception/conversion/tensorrt_build.py"],
    "open_clip": ["lvad_training/model/text_encoders.py"],
    "transformers": ["lvad_training/model/text_encoders.py"],
    "accelerate": [
        "lvad_training/training/loop.py",
        "lvad_training/training/processes.py",
        "lvad_training/pretrain/",
    ],
    "lightly": ["lvad_training/pretrain/"],
    "faster_coco_eval": ["lvad_perception/metrics/"],
}

# Heavy or missing on a vehicle: lvad_perception may import these inside functions only.
NOT_AT_IMPORT_TIME = {"torch", "torchvision", "timm", "accelerate", "faster_coco_eval", "tensorrt", "torch2trt"}


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every absolute module name that the code imports, by statement or by ``import_module("…")``, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "." * node.level + (node.module or ""), node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module in LAYERS:  # from lvad_perception import overlay
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from ((text, node.lineno) for text in texts if isinstance(text, str))


def import_time_imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Of those, what runs when the module is imported: not in functions, not under ``if TYPE_CHECKING``."""
    skipped = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, skipped) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imports(ast.Module([node], []))
        yield from import_time_imports(node)


def violations(sources: dict[str, str]) -> list[str]:
    """Broken rules, one sentence each; ``sources`` maps a path such as "lvad_perception/cli.py" to its text."""
    found = []
    for path, text in sources.items():
        package, *rest = Path(path).with_suffix("").parts
        room = rest[0]
        tree = ast.parse(text)
        for name, line in imports(tree):
            where = f"{path}:{line} imports {name}"
            top = name.split(".")[0]
            if name.startswith("."):
                found.append(f"{where}: relative imports hide the room; write the full name")
            elif top in LAYERS:
                found += [f"{where}: {reason}" for reason in broken_layers(package, room, name)]
            elif top in CONFINED and not any(path.startswith(prefix) for prefix in CONFINED[top]):
                found.append(f"{where}: {top} belongs to {' and '.join(CONFINED[top])} alone")
        if package == "lvad_perception":
            found += [
                f"{path}:{line} imports {name}: a vehicle may not have it; import it inside the function that needs it"
                for name, line in import_time_imports(tree)
                if name.split(".")[0] in NOT_AT_IMPORT_TIME
            ]
    return found


def broken_layers(package: str, room: str, name: str) -> Iterator[str]:
    target_package, _, inside = name.partition(".")
    target = inside.split(".")[0]
    if package != target_package:
        if package == "lvad_perception":
            yield "perception never imports training"
        elif is_room(target_package, target) and not shared(inside):
            yield f"training shares only {', '.join(sorted(SHARED_WITH_TRAINING))} with perception"
        return
    if room == "__init__" or not is_room(package, target) or target == room:
        return  # the package's own facts, such as its version, and a room's own files
    if layer_of(package, room) is None:
        yield f"{room} is a new room; put it into a layer of {Path(__file__).name}"
    elif layer_of(package, target) >= layer_of(package, room):
        direction = "a sibling" if layer_of(package, target) == layer_of(package, room) else "upwards"
        yield f"{room} may only import rooms below it, and {target} is {direction}"


def shared(inside: str) -> bool:
    return any(inside == name or inside.startswith(f"{name}.") for name in SHARED_WITH_TRAINING)


def is_room(package: str, name: str) -> bool:
    return layer_of(package, name) is not None


def layer_of(package: str, room: str) -> int | None:
    return next((height for height, rooms in enumerate(LAYERS[package]) if room in rooms), None)


def project_sources() -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for package in LAYERS
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def test_the_sources_keep_the_rules() -> None:
    broken = violations(project_sources())
    assert not broken, "\n" + "\n".join(broken)


def test_every_room_has_a_layer() -> None:
    """Also rooms that import nothing and so could break no rule."""
    rooms = {
        (package, path.stem)
        for package in LAYERS
        for path in (ROOT / package).iterdir()
        if (path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())) and path.stem != "__init__"
    }
    homeless = sorted(f"{package}/{room}" for package, room in rooms if not is_room(package, room))
    assert not homeless, f"put {', '.join(homeless)} into a layer of {Path(__file__).name}"


def test_importing_perception_does_not_import_torch() -> None:
    """The real thing, all modules but the node's, which need ROS: nothing heavy comes along by a detour either."""
    modules = [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in project_sources()
        if path.startswith("lvad_perception/") and not path.startswith("lvad_perception/node/")
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(sorted({NOT_AT_IMPORT_TIME!r} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        (
            "lvad_perception/media/overlay.py",
            "from lvad_training.recipe.config import Recipe",
            "perception never imports training",
        ),
        (
            "lvad_perception/datasets/bdd100k/index.py",
            "def f():\n    import lvad_training",
            "perception never imports training",
        ),
        ("lvad_training/training/loop.py", "from lvad_perception.node import main", "training shares only"),
        ("lvad_training/export/model_file.py", "from lvad_perception import perceiver", "training shares only"),
        ("lvad_training/model/neck.py", "from lvad_training.losses.matcher import match", "losses is a sibling"),
        ("lvad_training/losses/matcher.py", "import lvad_training.data.transforms", "data is a sibling"),
        ("lvad_training/model/neck.py", "from lvad_training.build import build_model", "build is upwards"),
        ("lvad_training/samples.py", "from lvad_training import decoding", "decoding is upwards"),
        ("lvad_perception/types.py", "from lvad_perception.errors import LvadError", "errors is a sibling"),
        ("lvad_perception/perceiver.py", "import lvad_perception.bags.replay", "bags is upwards"),
        ("lvad_perception/conversion/int8.py", "from lvad_perception.bags import replay", "bags is a sibling"),
        ("lvad_perception/shelf.py", "from lvad_perception.types import Size", "shelf is a new room"),
        ("lvad_perception/bags/replay.py", "from .convert import convert", "relative imports"),
        ("lvad_perception/perceiver.py", "import rclpy", "rclpy belongs to lvad_perception/node/ alone"),
        ("lvad_perception/media/overlay.py", "from sensor_msgs.msg import Image", "sensor_msgs belongs to"),
        ("lvad_perception/cli.py", 'importlib.import_module("vision_msgs.msg")', "vision_msgs belongs to"),
        ("lvad_perception/engines/onnx.py", "def f():\n    import tensorrt", "tensorrt belongs to"),
        ("lvad_perception/engines/onnx.py", "def f():\n    from torch2trt import TRTModule", "torch2trt belongs to"),
        ("lvad_training/model/adapter.py", "import open_clip", "open_clip belongs to"),
        ("lvad_training/build.py", "from accelerate import Accelerator", "accelerate belongs to"),
        ("lvad_perception/engines/pytorch.py", "import torch", "a vehicle may not have it"),
        (
            "lvad_perception/cli.py",
            "try:\n    import torch.nn\nexcept ImportError:\n    pass",
            "a vehicle may not have",
        ),
        ("lvad_perception/report.py", "class A:\n    import torchvision", "a vehicle may not have it"),
    ],
)
def test_each_rule_can_fail(path: str, text: str, message: str) -> None:
    broken = violations({path: text})
    assert len(broken) == 1, broken
    assert message in broken[0]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("lvad_perception/engines/pytorch.py", "def load():\n    import torch"),
        ("lvad_perception/engines/pytorch.py", "if TYPE_CHECKING:\n    import torch"),
        ("lvad_perception/node/perception.py", "import rclpy\nfrom lvad_perception.perceiver import Perceiver"),
        ("lvad_perception/bags/replay.py", "from lvad_perception.bags.cameras import Camera"),
        ("lvad_perception/cli.py", "from lvad_perception import __version__"),
        ("lvad_training/build.py", "from lvad_training.model.neck import Fpn\nimport torch"),
        ("lvad_training/data/torch_datasets.py", "from lvad_perception.datasets.bdd100k import open_split"),
    ],
)
def test_what_is_allowed_passes(path: str, text: str) -> None:
    assert violations({path: text}) == []
