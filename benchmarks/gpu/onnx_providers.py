"""The model files in ONNX Runtime: its CUDA and TensorRT execution providers against its CPU provider."""

import time
from typing import Any

import numpy as np

from benchmarks.gpu.differences import Arrays, difference
from benchmarks.gpu.job import Cells, Recorder, Unavailable
from benchmarks.gpu.subjects import model_file, preset_recipe, road_images
from benchmarks.gpu.timing import Stopwatch
from lvad_perception.manifest import INPUT_NAME
from lvad_perception.types import UInt8

TABLE = "ONNX Runtime, batch 1"
COMPARED = 2
SECONDS = 1.5

# Level 2 of 5 builds in a fraction of the default's time and was made for that; the file's limit is short.
_TENSORRT = {"device_id": 0, "trt_fp16_enable": True, "trt_builder_optimization_level": 2}
PROVIDERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("CUDA fp32", "CUDAExecutionProvider", {"device_id": 0}),
    ("TensorRT fp16", "TensorrtExecutionProvider", _TENSORRT),
)


def run(recorder: Recorder) -> None:
    """Latency of every provider that is present, and how far its outputs are from the CPU provider's."""
    job = recorder.job
    try:
        import onnxruntime
    except ImportError as err:
        raise Unavailable("onnxruntime is not installed; pip install onnxruntime-gpu") from err
    onnxruntime.set_default_logger_severity(3)
    if job.device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's and cuDNN's libraries from the packages that came with torch
    recorder.note(
        "Times by the host's clock around one synchronous run, the image on the device before and the outputs left "
        "there. Differences are to ONNX Runtime's CPU provider on the same file."
    )
    available = onnxruntime.get_available_providers()
    references = {}

    def reference(preset: str) -> tuple[list[UInt8], list[Arrays]]:
        if preset not in references:
            references[preset] = cpu_outputs(recorder, preset)
        return references[preset]

    for name, provider, options in [("CPU fp32", "CPUExecutionProvider", {})] if job.small else PROVIDERS:
        for preset in job.presets:

            def cells(preset: str = preset, provider: str = provider, options: dict[str, Any] = options) -> Cells:
                if provider not in available:
                    raise Unavailable(f"this onnxruntime has no {provider}; pip install onnxruntime-gpu for this CUDA")
                return _measure(recorder, preset, provider, options, reference(preset))

            recorder.measure(TABLE, {"preset": preset, "provider": name}, cells, needs_s=5)


def cpu_outputs(recorder: Recorder, preset: str) -> tuple[list[UInt8], list[Arrays]]:
    """Images uint8 [1, H, W, 3] and what the CPU provider says of each."""
    import onnxruntime

    height, width = preset_recipe(recorder.job, preset).model.network_hw
    images = [image[None] for image in road_images(COMPARED, (height, width), seed=1)]
    session = onnxruntime.InferenceSession(str(model_file(recorder.job, preset)), providers=["CPUExecutionProvider"])
    return images, [_run(session, image) for image in images]


def largest(found: list[Arrays], wanted: list[Arrays]) -> Cells:
    """Difference of images of batch 1, taken together."""
    stacked = [
        {name: np.concatenate([arrays[name] for arrays in side]) for name in side[0]} for side in (found, wanted)
    ]
    return difference(*stacked).cells()


def _measure(
    recorder: Recorder,
    preset: str,
    provider: str,
    options: dict[str, Any],
    reference: tuple[list[UInt8], list[Arrays]],
) -> Cells:
    import onnxruntime

    images, wanted = reference
    recorder.log(f"{preset}: opening a session with {provider}")
    chain = [(provider, options)]
    if provider == "TensorrtExecutionProvider":
        chain.append(("CUDAExecutionProvider", {"device_id": 0}))  # for what TensorRT does not take
    began = time.perf_counter()
    session = onnxruntime.InferenceSession(str(model_file(recorder.job, preset)), providers=chain)
    opened_s = time.perf_counter() - began
    if session.get_providers()[0] != provider:  # it falls back without an error when a library is missing
        raise Unavailable(f"{provider} did not load, probably for want of a CUDA, cuDNN or TensorRT library")
    found = [_run(session, image) for image in images]
    call = _bound(session, images[0]) if recorder.job.device == "cuda" else lambda: _run(session, images[0])
    watch = Stopwatch(events=False, quick=recorder.job.small)  # a run returns when the device is done
    return {"opened in s": opened_s, **watch.speed(call, batch=1, seconds=SECONDS), **largest(found, wanted)}


def _run(session: Any, image: UInt8) -> Arrays:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT_NAME: image}), strict=True))


def _bound(session: Any, image: UInt8) -> Any:
    """A call whose input and outputs stay on the GPU."""
    import onnxruntime

    binding = session.io_binding()
    binding.bind_ortvalue_input(INPUT_NAME, onnxruntime.OrtValue.ortvalue_from_numpy(image, "cuda", 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda", 0)
    return lambda: session.run_with_iobinding(binding)
