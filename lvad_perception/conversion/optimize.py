"""Model file -> engine file for this machine, written only when it agrees with ONNX Runtime on images."""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lvad_perception.conversion.calibration import folder_images, rendered_images, to_batches
from lvad_perception.conversion.lowering import PRECISIONS, lower
from lvad_perception.conversion.tensorrt_build import BuildOptions, Progress, build_plan, build_with_torch2trt
from lvad_perception.engines.agreement import TOLERANCES, Agreement, agree, copied
from lvad_perception.engines.base import Engine
from lvad_perception.engines.cuda import Cuda
from lvad_perception.engines.onnx import OnnxEngine
from lvad_perception.engines.tensorrt import TensorRtEngine, import_tensorrt, version_of
from lvad_perception.engines.tensorrt_file import (
    SUFFIXES,
    EngineFile,
    Target,
    write_engine_file,
    write_torch2trt_file,
)
from lvad_perception.errors import ConfigError, EngineError, LvadError, ModelFileError
from lvad_perception.files import draft
from lvad_perception.machine import cache_folders
from lvad_perception.manifest import Manifest
from lvad_perception.provenance import digest
from lvad_perception.types import RawOutputs, Size, UInt8

CALIBRATION_IMAGES: Final = 64
CHECK_IMAGES: Final = 8
_FORMAT: Final = 2
"""Of cached engines: raised when the same inputs would be built differently."""


@dataclass(frozen=True, slots=True)
class Optimized:
    """What was written.

    Attributes:
        path: the engine file.
        description: of the engine: runtime, version, GPU, precision.
        manifest: of the model.
        agreement: with ONNX Runtime on the checked images.
        images: how many those were, and whether they are from a folder.
        built_s: seconds that the build took; None when the engine was in the cache.
        size_bytes: of the file.
    """

    path: Path
    description: str
    manifest: Manifest
    agreement: Agreement
    images: str
    built_s: float | None
    size_bytes: int

    def to_text(self) -> str:
        """Lines for people."""
        how = "from the cache" if self.built_s is None else f"built in {self.built_s:.0f} s"
        return (
            f"{self.path}: {self.description}; {self.size_bytes / 2**20:.1f} MiB, {how}\n"
            f"  agrees with ONNX Runtime on {self.images}: {self.agreement.to_text()}"
        )


def optimize(
    model: Path,
    output: Path,
    *,
    precision: str = "fp16",
    images: Path | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    check_images: int = CHECK_IMAGES,
    options: BuildOptions | None = None,
    cache_dir: Path | None = None,
    rebuild: bool = False,
    device: Cuda | None = None,
    report: Callable[[str], None] = print,
    progress: Progress = lambda share, phase: None,
) -> Optimized:
    """Build an engine for this machine's TensorRT and GPU, check it, write it.

    Args:
        model: the ``.onnx`` model file.
        output: ``.engine`` or ``.plan``, built by TensorRT's builder, or ``.pth``, built by torch2trt.
        precision: "fp32", "fp16" or "int8".
        images: folder of images like those of the vehicle's cameras: to compare engines on, and to measure the scales
            of INT8 on others of them. Without one, engines are compared on rendered images and INT8 is refused.
        calibration_images: most images to measure scales on, evenly spread over the folder's sorted names.
        check_images: about how many to compare on, likewise.
        options: how hard to try; the timing cache is this function's.
        cache_dir: where engines are kept, by TensorRT version, GPU, rewritten model and settings; the user's cache when
            None.
        rebuild: build also when the cache has it.
        device: the CUDA device; the first one when None.
        report: told each step.
        progress: told where calibration and build are.

    Raises:
        EngineError: there is no GPU, TensorRT cannot build it, or the engine disagrees; nothing is written.
        ModelFileError, VocabularyMismatchError: the model file is none.
        ConfigError: impossible options. DatasetError, ImageError: the folder has no images.
        MissingDependencyError: TensorRT, torch, onnx or, for ``.pth``, torch2trt is not installed.
    """
    _check(model, output, precision, images, (calibration_images, check_images))
    device = device or Cuda()
    target = Target(import_tensorrt("optimize").__version__, device.name, device.capability)
    reference = OnnxEngine(model)
    if reference.precision != "fp32":
        raise ConfigError(f"{model} is in {reference.precision.upper()} already; give the FP32 file that was exported")
    manifest = reference.manifest
    calibration_images = calibration_images if precision == "int8" else 0
    scales, checked, source = _images(images, manifest.input_hw, calibration_images, check_images)
    batches, calibration = (to_batches(each, manifest.batch_size) for each in (checked, scales))
    wanted = [copied(reference.infer(batch)) for batch in batches]
    reference.close()
    options = options or BuildOptions()
    content = model.read_bytes()
    metadata = EngineFile(
        b"",
        manifest,
        precision=precision,
        target=target,
        model_sha256=hashlib.sha256(content).hexdigest(),
        builder="torch2trt" if output.suffix == ".pth" else "tensorrt",
    )
    folder = _cache_folder(cache_dir)
    judge = _Judge(batches, wanted, precision, source, output)
    report(f"rewriting the model in {precision.upper()}")
    old = version_of(import_tensorrt("optimize")) < (10, 0)
    lowered = lower(content, precision=precision, opset_17=old, batches=calibration, progress=progress)
    kept = folder / f"{_key(metadata, options, lowered)}{'.pth' if output.suffix == '.pth' else '.engine'}"
    if kept.exists() and not rebuild:
        report(f"found in the cache: {kept}")
        try:
            agreement, description = judge.engine(kept, device)
        except LvadError as err:
            report(f"the cached engine is of no use: {err}")
        else:
            return _deliver(kept, output, Optimized(output, description, manifest, agreement, source, None, 0))
    report(f"the rewritten model in ONNX Runtime: {judge.model(lowered).to_text()}")
    report(f"building for {target.to_text()}; this takes minutes")
    began = time.perf_counter()
    metadata, state = _build(lowered, metadata, replace(options, timing_cache=_timings(folder, target)), progress)
    built_s = time.perf_counter() - began
    with draft(kept) as built:
        _write(built, metadata, state)
        agreement, description = judge.engine(built, device)
        _write(built, replace(metadata, agreement=agreement.to_text()), state)
    return _deliver(kept, output, Optimized(output, description, manifest, agreement, source, built_s, 0))


def _build(
    lowered: bytes, metadata: EngineFile, options: BuildOptions, progress: Progress
) -> tuple[EngineFile, dict[str, Any] | None]:
    """The engine, and the state dict of torch2trt's module where that built it."""
    assert metadata.precision is not None
    if metadata.builder == "torch2trt":
        plan, state = build_with_torch2trt(lowered, metadata.manifest, metadata.precision)
        return replace(metadata, plan=plan), state
    return replace(metadata, plan=build_plan(lowered, metadata.precision, options, progress=progress)), None


def _write(path: Path, file: EngineFile, state: dict[str, Any] | None) -> None:
    if state is None:
        write_engine_file(path, file)
    else:
        write_torch2trt_file(path, file, state)


def _timings(folder: Path, target: Target) -> Path:
    """Timing cache of one TensorRT version and GPU, for any model."""
    return folder / f"timing-{hashlib.sha256(target.to_text().encode()).hexdigest()[:16]}.cache"


@dataclass(frozen=True, slots=True)
class _Judge:
    """What an engine is compared with, and the refusal."""

    batches: Sequence[UInt8]
    wanted: Sequence[RawOutputs]
    precision: str
    source: str
    output: Path

    def model(self, content: bytes) -> Agreement:
        """Judge an ONNX file in ONNX Runtime."""
        with tempfile.TemporaryDirectory(prefix="lvad-lowered-") as folder:
            path = Path(folder) / "lowered.onnx"
            path.write_bytes(content)
            return self._judge(OnnxEngine(path), "the rewritten model, in ONNX Runtime")

    def engine(self, path: Path, device: Cuda) -> tuple[Agreement, str]:
        """Judge an engine file; its agreement and description."""
        engine = TensorRtEngine(path, device=device)
        description = engine.description
        return self._judge(engine, f"the engine ({description})"), description

    def _judge(self, engine: Engine, what: str) -> Agreement:
        try:
            found = [copied(engine.infer(batch)) for batch in self.batches]
        finally:
            engine.close()
        tolerance = TOLERANCES[self.precision]
        agreement = agree(found, self.wanted, tolerance)
        if not agreement.within(tolerance):
            raise EngineError(
                f"{self.output}: not written, since {what} disagrees with ONNX Runtime in FP32 on {self.source}: "
                f"{agreement.to_text()}, where {self.precision.upper()} may differ by {tolerance.boxes_px:g} px, "
                f"{tolerance.scores:g} in scores and {1 - tolerance.masks:.2%} of mask pixels; "
                + ("use --precision fp16" if self.precision == "int8" else "use --precision fp32 or another TensorRT")
            )
        return agreement


def _check(model: Path, output: Path, precision: str, images: Path | None, counts: tuple[int, int]) -> None:
    if model.suffix != ".onnx" or not model.is_file():
        raise ModelFileError(f"{model} is no .onnx model file; write one with: lvad-train export CHECKPOINT MODEL.onnx")
    if output.suffix not in SUFFIXES:
        raise ConfigError(f"{output} does not end in {' or '.join(SUFFIXES)}; name the engine file so")
    if precision not in PRECISIONS:
        raise ConfigError(f"{precision} is no precision; choose {', '.join(PRECISIONS)}")
    if precision == "int8" and images is None:
        raise ConfigError("INT8 needs images to measure its scales on; name a folder with --calibration")
    if min(counts) < 1:
        raise ConfigError(f"{min(counts)} images show nothing; give at least 1")


def _images(folder: Path | None, size_hw: Size, calibration: int, check: int) -> tuple[list[UInt8], list[UInt8], str]:
    """Images for the scales, others to compare on, and what to call the latter."""
    if folder is None:
        return [], rendered_images(size_hw, check), f"{check} rendered images"
    found = folder_images(folder, size_hw, calibration + check)
    if not calibration:
        return [], found, f"{len(found)} images of {folder}"
    stride = max(2, len(found) // check)
    places = set(range(stride // 2, len(found), stride))
    checked = [image for place, image in enumerate(found) if place in places]
    if not checked:
        raise ConfigError(f"{folder} has a single image; scales and comparison need different ones")
    others = [image for place, image in enumerate(found) if place not in places]
    return others, checked, f"{len(checked)} images of {folder}"


def _cache_folder(cache_dir: Path | None) -> Path:
    for place in cache_folders(cache_dir):
        folder = place / "tensorrt"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    raise EngineError("no cache folder can be written; name one with space with --cache-dir")


def _key(metadata: EngineFile, options: BuildOptions, lowered: bytes) -> str:
    """What two builds must share for one to stand for the other: what the file says of itself and the builder is given.

    The graph is the one that is built, so that also another way of rewriting the model has another key.
    """
    return digest([_FORMAT, metadata.to_json(), options.level, options.workspace_bytes, digest(lowered)])


def _deliver(kept: Path, output: Path, result: Optimized) -> Optimized:
    """Copy the engine from the cache; ``output`` appears whole or not at all."""
    try:
        with draft(output) as own:
            shutil.copyfile(kept, own)
            size = own.stat().st_size
    except OSError as err:
        raise EngineError(f"{output} cannot be written ({err.strerror}); choose a folder with space") from err
    return replace(result, size_bytes=size)
