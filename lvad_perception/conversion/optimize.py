"""TensorRT engines for this machine from a model file, written only when they agree with ONNX Runtime on images."""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lvad_perception.conversion.calibration import folder_images, rendered_images, to_batches
from lvad_perception.conversion.comparison import Comparison, compare_on, open_original
from lvad_perception.conversion.lowering import PRECISIONS, lower
from lvad_perception.conversion.tensorrt_build import BuildOptions, build_plan, build_with_torch2trt
from lvad_perception.engines import Engine, open_engine
from lvad_perception.engines.agreement import Agreement
from lvad_perception.engines.cuda import Cuda
from lvad_perception.engines.failures import write_failures
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
from lvad_perception.types import Progress, Size, UInt8

CALIBRATION_IMAGES: Final = 64
CHECK_IMAGES: Final = 8
_FORMAT: Final = 2
"""Version of the cached engines; raise it when the same inputs would be built differently."""


@dataclass(frozen=True, slots=True)
class Optimized:
    """The result of ``optimize``.

    Attributes:
        path: the engine file.
        description: of the engine: runtime, version, GPU, precision.
        manifest: of the model.
        agreement: with ONNX Runtime on the images of the comparison.
        images: number and origin of those images, such as "8 images of DIR".
        built_s: duration of the build in seconds; None when the engine was in the cache.
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
        """Two lines for a terminal."""
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
        images: folder of images like those of the vehicle's cameras: some for the comparison, others for the
            calibration of INT8. Without one, engines are compared on rendered images and INT8 is refused.
        calibration_images: maximum number of images for the calibration, evenly spread over the folder's sorted names.
        check_images: approximate number of images for the comparison, likewise.
        options: of the build; its timing cache is replaced by that of the cache folder.
        cache_dir: folder of built engines, by TensorRT version, GPU, rewritten model and settings; the user's cache
            when None.
        rebuild: build even when the engine is in the cache.
        device: the CUDA device; the first one when None.
        report: receives one line per step.
        progress: receives the progress of calibration and build.

    Raises:
        EngineError: there is no GPU, TensorRT cannot build it, or the engine disagrees; nothing is written.
        ModelFileError, VocabularyMismatchError: ``model`` is no model file.
        ConfigError: impossible options. DatasetError, ImageError: the folder has no images.
        MissingDependencyError: TensorRT, torch, onnx or, for ``.pth``, torch2trt is not installed.
    """
    _check(model, output, precision, images, (calibration_images, check_images))
    device = device or Cuda()
    target = Target(import_tensorrt("optimize").__version__, device.name, device.capability)
    with open_original(model) as original:
        manifest = original.manifest
        calibration_images = calibration_images if precision == "int8" else 0
        calibration, checked, source = _images(images, manifest.input_hw, calibration_images, check_images)
        check = _Check(compare_on(original, checked, source), precision, output)
    options = options or BuildOptions()
    content = model.read_bytes()
    file = EngineFile(
        b"",
        manifest,
        precision=precision,
        target=target,
        model_sha256=hashlib.sha256(content).hexdigest(),
        builder="torch2trt" if output.suffix == ".pth" else "tensorrt",
    )
    folder = _cache_folder(cache_dir)
    report(f"rewriting the model in {precision.upper()}")
    opset_17 = version_of(import_tensorrt("optimize")) < (10, 0)
    batches = to_batches(calibration, manifest.batch_size)
    lowered = lower(content, precision=precision, opset_17=opset_17, batches=batches, progress=progress)
    cached = folder / f"{_key(file, options, lowered)}{'.pth' if output.suffix == '.pth' else '.engine'}"
    if cached.exists() and not rebuild:
        report(f"found in the cache: {cached}")
        try:
            agreement, description = check.engine(cached, device)
        except LvadError as err:
            report(f"the cached engine cannot be used: {err}")
        else:
            return _copy(cached, output, Optimized(output, description, manifest, agreement, source, None, 0))
    report(f"the rewritten model in ONNX Runtime: {check.model(lowered).to_text()}")
    report(f"building for {target.to_text()}; this takes minutes")
    began = time.perf_counter()
    file, state = _build(lowered, file, replace(options, timing_cache=_timing_cache(folder, target)), progress)
    built_s = time.perf_counter() - began
    with draft(cached) as built:
        _write(built, file, state)
        agreement, description = check.engine(built, device)
        _write(built, replace(file, agreement=agreement.to_text()), state)
    return _copy(cached, output, Optimized(output, description, manifest, agreement, source, built_s, 0))


def _build(
    lowered: bytes, file: EngineFile, options: BuildOptions, progress: Progress
) -> tuple[EngineFile, dict[str, Any] | None]:
    """The engine, and the state dict of torch2trt's module if that built it."""
    assert file.precision is not None
    if file.builder == "torch2trt":
        plan, state = build_with_torch2trt(lowered, file.manifest, file.precision)
        return replace(file, plan=plan), state
    return replace(file, plan=build_plan(lowered, file.precision, options, progress=progress)), None


def _write(path: Path, file: EngineFile, state: dict[str, Any] | None) -> None:
    if state is None:
        write_engine_file(path, file)
    else:
        write_torch2trt_file(path, file, state)


def _timing_cache(folder: Path, target: Target) -> Path:
    """Timing cache of one TensorRT version and GPU, shared by all models."""
    return folder / f"timing-{hashlib.sha256(target.to_text().encode()).hexdigest()[:16]}.cache"


@dataclass(frozen=True, slots=True)
class _Check:
    """The comparison of the rewritten model and of the engine with the original."""

    comparison: Comparison
    precision: str
    output: Path

    def model(self, content: bytes) -> Agreement:
        """Check the rewritten model, an ONNX file's content, in ONNX Runtime."""
        with tempfile.TemporaryDirectory(prefix="lvad-lowered-") as folder:
            path = Path(folder) / "lowered.onnx"
            path.write_bytes(content)
            return self._compare(open_engine(path), "the rewritten model, in ONNX Runtime")

    def engine(self, path: Path, device: Cuda) -> tuple[Agreement, str]:
        """Check an engine file; returns its agreement and description."""
        engine = TensorRtEngine(path, device=device)
        description = engine.description
        return self._compare(engine, f"the engine ({description})"), description

    def _compare(self, engine: Engine, name: str) -> Agreement:
        remedy = "use --precision fp16" if self.precision == "int8" else "use --precision fp32 or another TensorRT"
        return self.comparison.check(engine, self.precision, name=name, output=self.output, remedy=remedy)


def _check(model: Path, output: Path, precision: str, images: Path | None, counts: tuple[int, int]) -> None:
    if model.suffix != ".onnx" or not model.is_file():
        raise ModelFileError(f"{model} is no .onnx model file; write one with: lvad-train export CHECKPOINT MODEL.onnx")
    if output.suffix not in SUFFIXES:
        raise ConfigError(f"{output} does not end in {' or '.join(SUFFIXES)}; name the engine file so")
    if precision not in PRECISIONS:
        raise ConfigError(f"there is no precision {precision}; choose one of {', '.join(PRECISIONS)}")
    if precision == "int8" and images is None:
        raise ConfigError("INT8 needs images to measure its scales on; name a folder with --calibration")
    if min(counts) < 1:
        raise ConfigError(f"{min(counts)} images are too few; give at least 1")


def _images(folder: Path | None, size_hw: Size, calibration: int, check: int) -> tuple[list[UInt8], list[UInt8], str]:
    """Images for the calibration, others for the comparison, and the number and origin of the latter."""
    if folder is None:
        return [], rendered_images(size_hw, check), f"{check} rendered images"
    images = folder_images(folder, size_hw, calibration + check)
    if not calibration:
        return [], images, f"{len(images)} images of {folder}"
    stride = max(2, len(images) // check)
    chosen = set(range(stride // 2, len(images), stride))
    checked = [image for index, image in enumerate(images) if index in chosen]
    if not checked:
        raise ConfigError(f"{folder} has a single image; scales and comparison need different ones")
    others = [image for index, image in enumerate(images) if index not in chosen]
    return others, checked, f"{len(checked)} images of {folder}"


def _cache_folder(cache_dir: Path | None) -> Path:
    for parent in cache_folders(cache_dir):
        folder = parent / "tensorrt"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    raise EngineError("no cache folder can be written; name one with space with --cache-dir")


def _key(file: EngineFile, options: BuildOptions, lowered: bytes) -> str:
    """Cache key of a build: the metadata of the file, the options and the rewritten graph.

    The rewritten graph, since another version of this package may rewrite the same model differently.
    """
    return digest([_FORMAT, file.to_json(), options.level, options.workspace_bytes, digest(lowered)])


def _copy(cached: Path, output: Path, result: Optimized) -> Optimized:
    """Copy the engine from the cache; an interrupted copy leaves ``output`` as it was."""
    with write_failures(output), draft(output) as own:
        shutil.copyfile(cached, own)
        size = own.stat().st_size
    return replace(result, size_bytes=size)
