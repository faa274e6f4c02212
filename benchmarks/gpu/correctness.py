"""Does CUDA compute what the CPU computes? In fp32 it must, within tolerances; bf16 and fp16 are reported."""

import torch
from torch import Tensor

from benchmarks.gpu.differences import difference, to_arrays
from benchmarks.gpu.job import Cells, Recorder
from benchmarks.gpu.subjects import DTYPES, Deployed, preset_net, preset_recipe, road_images
from lvad_training.samples import Outputs

ABSOLUTE, RELATIVE = 1e-3, 1e-3
"""A value of the raw outputs agrees in fp32 when it is this near, as ``torch.isclose`` counts."""
SHARE = 0.999
"""Of the values must agree: a box on the border between two pyramid levels may be pooled from either."""
IMAGES = 2


class DisagreementError(Exception):
    """CUDA and CPU differ by more than the tolerances."""


def run(recorder: Recorder) -> None:
    """Each preset in fp32 (products not in TF32), then in bf16 and fp16, against the CPU in fp32."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.set_grad_enabled(False)
    recorder.note(
        f"fp32 agrees when at least {SHARE:.1%} of each raw output's values are within {ABSOLUTE:g} + {RELATIVE:g} of "
        "the value; scores, boxes and masks are those of the decoded outputs, the other precisions have no tolerance."
    )
    wrong = [preset for preset in recorder.job.presets if not _fp32_agrees(recorder, preset)]
    if wrong:
        raise DisagreementError(f"no agreement in fp32 on {', '.join(wrong)}; the table says how far or why")


def _fp32_agrees(recorder: Recorder, preset: str) -> bool:
    """Compare the preset in every precision."""
    job = recorder.job
    recipe = preset_recipe(job, preset)
    height, width = recipe.model.network_hw
    images = torch.from_numpy(road_images(IMAGES, (height, width)))
    facts = {"preset": preset, "size": f"{width}x{height}"}
    recorder.log(f"{preset}: on the CPU")
    net, weights = preset_net(recipe)
    facts["weights"] = weights
    on_cpu = Deployed(net, recipe.model.max_detections, torch.float32)
    raw = _named(net(images.permute(0, 3, 1, 2)))
    wanted = to_arrays(on_cpu(images))

    def compare(precision: str) -> Cells:
        net, _ = preset_net(recipe)
        deployed = Deployed(net, recipe.model.max_detections, DTYPES[precision]).to(job.device)
        moved = images.to(job.device)
        cells = difference(to_arrays(deployed(moved)), wanted).cells()
        if precision != "fp32":
            return {"agrees": None, **cells}
        shares = _shares(_named(net(moved.permute(0, 3, 1, 2))), raw)
        worst = min(shares, key=lambda name: shares[name])
        if shares[worst] < SHARE:
            raise DisagreementError(f"only {shares[worst]:.2%} of {worst} are within the tolerance; {cells}")
        return {"agrees": True, "raw values within": f"{shares[worst]:.3%} ({worst})", **cells}

    table = f"{job.device} against the CPU in fp32"
    found = {
        precision: recorder.measure(table, {**facts, "precision": precision}, lambda p=precision: compare(p))
        for precision in DTYPES
    }
    return found["fp32"] is not None


def _named(outputs: Outputs) -> dict[str, Tensor]:
    named = {}
    if outputs.detection is not None:
        named = {"class logits": outputs.detection.logits, "boxes": outputs.detection.boxes_xyxy}
    for task, masks in (("semantic", outputs.semantic), ("drivable", outputs.drivable)):
        if masks is not None:
            named |= {f"{task} logits": masks.logits, f"{task} masks": masks.masks}
    return {name: tensor.float().cpu() for name, tensor in named.items()}


def _shares(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    return {
        name: float(torch.isclose(found[name], tensor, rtol=RELATIVE, atol=ABSOLUTE).float().mean())
        for name, tensor in wanted.items()
    }
