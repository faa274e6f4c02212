"""The kinds of hostile input: valid examples, their mutation, and the code of both packages that reads them."""

import io
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from benchmarks.hostile import bombs
from benchmarks.hostile.materials import IMAGES, SIZE_HW, ignore, open_perceiver
from benchmarks.hostile.mutate import Random, mutate_bytes, mutate_png, mutate_text
from lvad_perception.errors import LvadError

Mutate = Callable[[bytes, Random, Sequence[bytes]], bytes]
Read = Callable[[bytes, Path], None]


class UncountedLossError(Exception):
    """Images of a bag are missing in the result and were not counted or reported."""


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        share: of all cases, in percent.
        examples: the folder of the materials -> valid files.
        mutate: a file, the random numbers and the other examples -> hostile bytes.
        reader: the folder of the materials -> a function that reads hostile bytes, with an empty folder to write into;
            it returns when they are accepted and raises LvadError to refuse them.
        bombs: the examples -> inputs that are read without a mutation.
    """

    share: float
    examples: Callable[[Path], list[bytes]]
    mutate: Mutate
    reader: Callable[[Path], Read]
    bombs: Callable[[list[bytes]], list[bytes]] = lambda _examples: []


def _all(*calls: Callable[[], object]) -> None:
    """Make all calls, then raise the first LvadError; any other exception is raised at once."""
    refusals = []
    for call in calls:
        try:
            call()
        except LvadError as err:
            refusals.append(err)
    if refusals:
        raise refusals[0]


def _messages(folder: Path) -> list[bytes]:
    """CDR bytes of two messages of each type, each after the name of its type and a line feed."""
    from lvad_perception.bags.reader import open_bag

    found: dict[str, list[bytes]] = {}
    with open_bag(folder / "mcap") as bag:
        for connection, _, raw in bag.messages(bag.connections):
            found.setdefault(connection.msgtype, []).append(connection.msgtype.encode() + b"\n" + bytes(raw))
    return [raw for raws in found.values() for raw in raws[:: max(1, len(raws) // 2)]]


def _mutate_message(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    name, _, raw = data.partition(b"\n")
    return name + b"\n" + mutate_bytes(raw, random, others)


def _message_reader(folder: Path) -> Read:
    from lvad_perception import messages
    from lvad_perception.bags.reader import open_bag

    readers: dict[str, Callable[[Any], Any]] = {
        "Image": messages.image_from_message,
        "CompressedImage": messages.image_from_compressed,
        "Detection2DArray": lambda msg: (messages.detections_from_message(msg), messages.truth_boxes_from_message(msg)),
        "LabelInfo": lambda msg: messages.check_label_info(msg, _semantic(), source="bag"),
    }
    with open_bag(folder / "mcap") as bag:
        deserialize = bag.deserialize

    def read(data: bytes, _scratch: Path) -> None:
        name, _, raw = data.partition(b"\n")
        msg = deserialize(raw, SimpleNamespace(msgtype=name.decode(), topic="/camera"))
        readers.get(name.decode().rpartition("/")[2], lambda _msg: None)(msg)

    return read


def _semantic() -> Any:
    from lvad_perception.vocabulary import TASKS

    return TASKS["semantic"]


def _of_file(name: str, make: Callable[[Path], Callable[[Path], object]]) -> Callable[[Path], Read]:
    """A ``Kind.reader`` that writes the bytes to a file ``name`` and calls the function that ``make`` returns on it."""

    def reader(folder: Path) -> Read:
        read_file = make(folder)

        def read(data: bytes, scratch: Path) -> None:
            (scratch / name).write_bytes(data)
            read_file(scratch / name)

        return read

    return reader


def _read_image(_folder: Path) -> Callable[[Path], object]:
    from lvad_perception.media.images import decode_image, read_image

    return lambda path: _all(lambda: decode_image(path.read_bytes(), source="message"), lambda: read_image(path))


def _jpegs(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "data/images").rglob("*.jpg"))[:8]]


def _pngs(folder: Path) -> list[bytes]:
    import cv2

    images = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in _jpegs(folder)]
    sixteen = [image.astype(np.uint16) * 257 for image in images[:2]]
    return [bytes(cv2.imencode(".png", image)[1]) for image in [*images, *sixteen, images[0][..., 0]]]


def _masks(folder: Path) -> list[bytes]:
    masks = sorted((folder / "data/labels/sem_seg").rglob("*.png"))
    return [path.read_bytes() for path in [*masks[:4], *sorted((folder / "data/labels/drivable").rglob("*.png"))[:4]]]


def _read_mask(_folder: Path) -> Callable[[Path], object]:
    from lvad_perception.datasets.bdd100k.masks import read_mask

    return lambda path: _all(lambda: read_mask(path, "semantic"), lambda: read_mask(path, "drivable"))


def _bag(storage: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [_one_file(folder / storage).read_bytes()]


def _one_file(bag: Path) -> Path:
    (file,) = (path for path in bag.iterdir() if path.name != "metadata.yaml")
    return file


def _mutate_bag(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Mutate any bytes or, since most of a bag is pixels, those within 400 bytes of a record's or a page's start."""
    if random.random() < 0.5:
        return mutate_bytes(data, random, others)
    begin = int(random.choice(_landmarks(data)))
    return data[:begin] + mutate_bytes(data[begin : begin + 400], random) + data[begin + 400 :]


def _landmarks(data: bytes) -> list[int]:
    if data.startswith(b"SQLite"):
        return list(range(0, len(data), 4096))
    return [
        0,
        *(at for at in (data.find(word) for word in (b"cdr", b"ros2msg", b"/camera", b"zstd")) if at > 0),
        len(data) - 400,
    ]


def _bag_reader(storage: str) -> Callable[[Path], Read]:
    def make(folder: Path) -> Read:
        from lvad_perception.bags.evaluate import evaluate_bag
        from lvad_perception.bags.replay import replay

        name, metadata = _one_file(folder / storage).name, (folder / storage / "metadata.yaml").read_bytes()
        perceiver = open_perceiver(folder)

        def read(data: bytes, scratch: Path) -> None:
            bag = scratch / "bag"
            bag.mkdir()
            (bag / name).write_bytes(data)
            (bag / "metadata.yaml").write_bytes(metadata)

            def replayed() -> None:
                reported: list[str] = []
                summary = replay(bag, perceiver, scratch / "out", report=reported.append)
                lost = sum(summary.skipped.values())
                if summary.images + lost < IMAGES or (lost and not reported):
                    raise UncountedLossError(
                        f"{summary.images} of {IMAGES} images, {lost} counted, {len(reported)} reported"
                    )

            _all(replayed, lambda: evaluate_bag(bag, report=ignore))

        return read

    return make


def _metadata(folder: Path) -> list[bytes]:
    return [(folder / storage / "metadata.yaml").read_bytes() for storage in ("mcap", "sqlite3")]


def _metadata_reader(folder: Path) -> Read:
    from lvad_perception.bags.replay import replay

    perceiver = open_perceiver(folder)

    def read(data: bytes, scratch: Path) -> None:
        bag = scratch / "bag"
        bag.mkdir()
        for storage in ("mcap", "sqlite3"):
            os.link(_one_file(folder / storage), bag / _one_file(folder / storage).name)
        (bag / "metadata.yaml").write_bytes(data)
        replay(bag, perceiver, scratch / "out", report=ignore)

    return read


def _labels(folder: Path) -> list[bytes]:
    """The label file of the validation split, and one with polygons and RLE."""
    boxes = next((folder / "data/labels/det_20").glob("*val*.json")).read_bytes()
    shapes = b"""[{"name": "x.jpg", "timestamp": 10000, "attributes": {"weather": "clear"}, "labels": [
      {"id": "1", "category": "drivable area", "attributes": {"areaType": "direct"}, "poly2d":
        [{"vertices": [[1, 1], [40, 2], [50, 40], [3, 30]], "types": "LLCC", "closed": true}]},
      {"id": "2", "category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 30, "y2": 20},
        "rle": {"counts": "0P1", "size": [48, 64]}, "attributes": {"occluded": true, "crowd": false}}]}]"""
    return [boxes, shapes]


def _label_reader(folder: Path) -> Read:
    from lvad_perception.datasets.bdd100k import open_split

    images = sorted((folder / "data/images/100k/val").iterdir())

    def read(data: bytes, scratch: Path) -> None:
        (scratch / "images/100k/val").mkdir(parents=True)
        for image in images:
            os.link(image, scratch / "images/100k/val" / image.name)
        os.link(images[0], scratch / "images/100k/val/x.jpg")
        for part in ("det_20/det_val.json", "drivable/polygons/drivable_val.json"):
            (scratch / "labels" / part).parent.mkdir(parents=True)
            (scratch / "labels" / part).write_bytes(data)
        split = open_split(scratch, "val", cache_dir=scratch / "cache")
        for index in range(len(split)):
            split.truth(index, SIZE_HW)

    return read


def _recipes(folder: Path) -> list[bytes]:
    import lvad_training

    config = Path(lvad_training.__file__).parents[1] / "config"
    return [(folder / "recipe.yaml").read_bytes(), *(path.read_bytes() for path in sorted(config.glob("*.yaml")))]


def _read_recipe(_folder: Path) -> Callable[[Path], object]:
    from lvad_training.recipe.config import load_recipe

    return load_recipe


def _checkpoints(folder: Path) -> list[bytes]:
    return [(folder / "model.pt").read_bytes()]


def _mutate_checkpoint(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Mutate the file, or the pickle inside it under right checksums of the archive."""
    if random.random() < 0.5:
        return mutate_bytes(data, random, others)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, mutate_bytes(content, random) if name.endswith("data.pkl") else content)
    return out.getvalue()


def _read_checkpoint(folder: Path) -> Callable[[Path], object]:
    from lvad_training.build import build_model, network_of
    from lvad_training.checkpoints import load_checkpoint
    from lvad_training.model.published import load_published
    from lvad_training.recipe.config import load_recipe

    backbone = build_model(load_recipe(folder / "recipe.yaml").model).backbone
    return lambda path: _all(
        lambda: network_of(load_checkpoint(path), source=str(path)), lambda: load_published(backbone, path)
    )


def _models(folder: Path) -> list[bytes]:
    return [(folder / "model.onnx").read_bytes()]


def _mutate_model(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Mutate any bytes, the graph, or an end of the file: there are the graph's structure and the manifest."""
    if random.random() < 0.3:
        return mutate_bytes(data, random, others)
    if random.random() < 0.5:
        return _mutate_graph(data, random)
    size = min(len(data) // 2, 20_000)
    if random.random() < 0.5:
        return mutate_bytes(data[:size], random) + data[size:]
    return data[:-size] + mutate_bytes(data[-size:], random)


def _mutate_graph(data: bytes, random: Random) -> bytes:
    """A well-formed file with a wrong graph, manifest or external data."""
    import onnx

    model = onnx.load_from_string(data)
    graph = model.graph
    node, tensor = (items[int(random.integers(len(items)))] for items in (graph.node, graph.initializer))
    match int(random.integers(8)):
        case 0:
            graph.node.remove(node)
        case 1:
            node.op_type = str(random.choice(["Loop", "Nothing", "Conv", "Identity", "MatMul"]))
        case 2:
            node.input[:] = reversed(node.input)
        case 3:
            tensor.dims[:] = [int(random.choice([0, -1, 1, 2**31, 2**62])) for _ in tensor.dims]
        case 4:
            place = str(random.choice(["../../../../etc/passwd", "/etc/passwd", "/dev/zero", "missing", "model.onnx"]))
            onnx.external_data_helper.set_external_data(tensor, location=place, offset=0, length=2**40)
            tensor.ClearField("raw_data")
        case 5:
            graph.input[0].type.tensor_type.shape.dim[int(random.integers(4))].dim_value = int(
                random.choice([0, 2**20, 7])
            )
        case 6:
            model.opset_import[0].version, model.ir_version = (
                int(random.choice([1, 999])),
                int(random.choice([1, 10, 999])),
            )
        case _:
            entry = model.metadata_props[int(random.integers(len(model.metadata_props)))]
            entry.value = mutate_text(entry.value.encode(), random).decode(errors="replace")
    return bytes(model.SerializeToString())


def _read_model(_folder: Path) -> Callable[[Path], object]:
    from lvad_perception.engines import open_engine

    def read(path: Path) -> None:
        engine = open_engine(path, threads=1)
        manifest = engine.manifest
        engine.infer(np.zeros((manifest.batch_size, *manifest.input_hw, 3), np.uint8))

    return read


def clear(folder: Path) -> None:
    """Empty a folder, or create it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


KINDS: Final[dict[str, Kind]] = {
    "message": Kind(40, _messages, _mutate_message, _message_reader, lambda _: [_compressed(bombs.png())]),
    "jpeg": Kind(18, _jpegs, mutate_bytes, _of_file("image.jpg", _read_image), lambda valid: [bombs.jpeg(valid[0])]),
    "png": Kind(12, _pngs, mutate_png, _of_file("image.png", _read_image), lambda _: [bombs.png(), bombs.png(8192)]),
    "mask": Kind(10, _masks, mutate_png, _of_file("mask.png", _read_mask), lambda _: [bombs.png()]),
    "mcap": Kind(3, _bag("mcap"), _mutate_bag, _bag_reader("mcap"), lambda _: [bombs.mcap(), bombs.mcap(declared=64)]),
    "db3": Kind(2, _bag("sqlite3"), _mutate_bag, _bag_reader("sqlite3")),
    "metadata": Kind(1, _metadata, mutate_text, _metadata_reader),
    "labels": Kind(6, _labels, mutate_text, _label_reader),
    "recipe": Kind(5, _recipes, mutate_text, _of_file("recipe.yaml", _read_recipe)),
    "checkpoint": Kind(
        1.5,
        _checkpoints,
        _mutate_checkpoint,
        _of_file("model.pt", _read_checkpoint),
        lambda v: [bombs.checkpoint(v[0])],
    ),
    "onnx": Kind(1.5, _models, _mutate_model, _of_file("model.onnx", _read_model)),
}


def _compressed(data: bytes) -> bytes:
    from lvad_perception.messages import make_header, rosbags_types, rosbags_typestore

    types = rosbags_types()
    msg = types.CompressedImage(
        header=make_header(0, "", types=types), format="png", data=np.frombuffer(data, np.uint8)
    )
    return b"sensor_msgs/msg/CompressedImage\n" + bytes(rosbags_typestore().serialize_cdr(msg, msg.__msgtype__))
