"""Two processes that train together on the CPU, and the functions that tests run in them."""

import multiprocessing
import os
import socket
import time
from pathlib import Path
from unittest import mock

import torch
from torch import distributed, nn
from torch.optim.lr_scheduler import LambdaLR

from lvad_perception.errors import ImageError
from lvad_training.build import build_criterion, build_model
from lvad_training.checkpoints import load_checkpoint, weights_sha256
from lvad_training.data import loader
from lvad_training.pretrain.frames import find_frames
from lvad_training.pretrain.recipe import FramesConfig
from lvad_training.recipe.config import parse_recipe
from lvad_training.samples import Batch
from lvad_training.training import loop, processes
from lvad_training.training.evaluation import examine_checkpoint
from lvad_training.training.processes import complete, start_processes, this_process
from lvad_training.training.schedule import optimizer_and_schedule
from lvad_training.training.train import evaluate_folder, train

from .conftest import SIZE_HW, SMALL_CONVOLUTIONS, SMALL_MASKS, StubEncoder, make_targets, small_recipe
from .table_runs import FakeRunner, run_table

QUERIES = {**SMALL_MASKS, "queries": 6, "dropout": 0.0, "pixel_loss": True}
HEADS = {
    "queries": {"semantic": QUERIES, "drivable": QUERIES},
    "convolutions": SMALL_CONVOLUTIONS,
}


SMALL_ALONE = {
    "sparse_rcnn": {},
    "fcos": {"width": 16},
    "maskformer": {**SMALL_MASKS, "queries": 6},
    "semantic_fpn": {"width": 16},
}


class TwoProcesses:
    """A process group of two that runs functions of this module; starting it takes seconds, so a module shares one."""

    def __init__(self):
        context = multiprocessing.get_context(loader.START_METHOD)
        context.set_forkserver_preload([loader.PRELOADED])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.pipes, self.processes = [], []
        for rank in range(2):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, port, there), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def run(self, function, *arguments, timeout_s=300):
        """The function's results in both processes, or the exceptions that it raised."""
        for pipe in self.pipes:
            pipe.send((function, arguments))
        results = []
        for pipe in self.pipes:
            assert pipe.poll(timeout_s), f"{function.__name__} hangs"
            results.append(pipe.recv())
        return results

    def close(self):
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(10)
            process.kill()


def _serve(rank, port, pipe):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(function(*arguments))
        except Exception as err:
            pipe.send(err)


def group_timeout():
    """Timeout of the group's collective operations."""
    this_process()
    return distributed.group.WORLD._get_backend(torch.device("cpu")).options._timeout


IMAGES = {
    "full": {"boxes": 5},
    "boxes": {"boxes": 2, "semantic": False, "drivable": False},
    "masks": {"boxes": None},
    "empty": {"boxes": 0, "semantic": False, "drivable": False},
    "drivable": {"boxes": None, "semantic": False},
}


def some_batch(names):
    images, targets = [], []
    for name in names:
        seed = list(IMAGES).index(name)
        target = make_targets(**IMAGES[name], seed=seed)
        if name == "masks":
            target.semantic[: SIZE_HW[0] // 2] = target.drivable[:, : SIZE_HW[1] // 3] = 255
        targets.append(target)
        images.append(torch.randint(0, 256, (3, *SIZE_HW), generator=torch.Generator().manual_seed(seed)).byte())
    return Batch(list(names), torch.stack(images), targets)


def run_steps(heads, steps, spoilt=()):
    """Loss terms and gradients of steps from the same weights.

    Args:
        heads: key of ``HEADS``.
        steps: per step, names of its images in ``IMAGES``.
        spoilt: names of images whose losses are NaN.

    GroupNorm replaces BatchNorm, whose statistics differ between processes.
    """
    recipe = small_recipe(model=HEADS[heads])
    torch.manual_seed(0)
    net = build_model(recipe.model)
    _replace_batch_norms(net)
    plain = build_criterion(recipe.model, recipe.loss)

    def criterion(outputs, batch):
        terms = plain(outputs, batch)
        return {name: value * float("nan") for name, value in terms.items()} if {*spoilt} & {*batch.names} else terms

    accelerator = start_processes("no")
    optimizer, gradients = torch.optim.SGD(net.parameters(), lr=0.0), []

    def keep(*_):
        gradients.append({name: value.grad.clone() for name, value in net.named_parameters()})

    optimizer.register_step_pre_hook(keep)
    scheduler = LambdaLR(optimizer, lambda _: 1.0)
    model, optimizer = accelerator.prepare(net, optimizer)
    reports = loop.train_steps(
        accelerator=accelerator,
        model=model,
        criterion=criterion,
        optimizer=optimizer,
        scheduler=scheduler,
        batches=[some_batch(names) for names in steps],
        gradient_clip=0.0,
    )
    return [report.terms for report in reports], gradients


def run_own_steps(heads, parts, spoilt=()):
    """``run_steps`` on this process's item of ``parts``."""
    return run_steps(heads, parts[this_process().process_index], spoilt)


def _replace_batch_norms(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(1, child.num_features))
        _replace_batch_norms(child)


class Runner(FakeRunner):
    """A ``FakeRunner`` in the main process; the row "uniform" diverges in the other process."""

    def run(self, recipe, **options):
        if "uniform" in recipe.output:
            run_own_steps("convolutions", [[["boxes"]], [["masks"]]], spoilt=["masks"])
        if this_process().is_main_process:
            super().run(recipe, **options)
        this_process().wait_for_everyone()


def reproduce_table1(base, out):
    """The error of reproducing table 1, and the trained rows."""
    runner = Runner()
    try:
        run_table("table1", base, out, runner)
    except Exception as err:
        return err, [folder.parent.name for folder in runner.trained if folder.name == "finetune"]


def share_uneven_work(pieces, failing=None):
    """Share uneven work: ``pieces`` per process, of 0.05 s each; returns this process's pieces and the meetings."""
    rank, done, met = this_process().process_index, [], []

    def work():
        for piece in range(pieces[rank]):
            if (rank, piece) == failing:
                raise ImageError("a.jpg is broken")
            time.sleep(0.05)
            done.append(piece)
            yield

    def gathered(thing):
        met.append(thing)
        return original(thing)

    original = processes.gathered
    with mock.patch.object(processes, "SYNC_INTERVAL_S", 0.1), mock.patch.object(processes, "gathered", gathered):
        complete(work())
    return done, len(met)


def examine(path, split=None):
    """Metrics, frames and kept frames of a checkpoint's evaluation."""
    evaluation = examine_checkpoint(load_checkpoint(path), split=split)
    frames = [(frame.name, frame.losses, frame.errors) for frame in evaluation.findings.frames]
    return evaluation.findings.metrics, frames, [frame.name for frame in evaluation.kept]


def train_recipe(content):
    """Train a recipe, given as plain values."""
    return train(parse_recipe(content, [], source="test"), progress=False)


def train_alone(task, head, section, language, *, steps=3):
    """Train a network of one task for some steps; the total losses, and a digest of the weights after them.

    Args:
        task: the only one that has a head.
        head: which.
        section: the other keys of its section.
        language: with learned prompts and adapter.
    """
    heads = dict.fromkeys(("detection", "semantic", "drivable"))
    model = heads | {task: {**SMALL_ALONE[head], "head": head, **section}}
    recipe = small_recipe(model=model | ({"language": {"width": 8, "heads": 2, "layers": 1}} if language else {}))
    torch.manual_seed(0)
    net = build_model(recipe.model, encoder=StubEncoder() if language else None)
    accelerator = start_processes("no")
    optimizer, scheduler = optimizer_and_schedule(net, recipe.train)
    model, optimizer = accelerator.prepare(net, optimizer)
    names = [["full", "boxes"], ["empty", "masks"]]
    reports = loop.train_steps(
        accelerator=accelerator,
        model=model,
        criterion=build_criterion(recipe.model, recipe.loss),
        optimizer=optimizer,
        scheduler=scheduler,
        batches=[some_batch(names[(step + this_process().process_index) % 2]) for step in range(steps)],
        gradient_clip=1.0,
    )
    totals = [report.terms["total"] for report in reports]
    return totals, weights_sha256(dict(net.named_parameters()))


def synchronise_batch_norm(root, output):
    """Train a recipe with ``train.batch_norm: sync``."""
    return train(small_recipe(root, train={"batch_norm": "sync"}, output=output), progress=False)


def evaluate_run(folder):
    """Metrics of a finished run, measured again."""
    return evaluate_folder(Path(folder))


def list_frames(root, keep):
    """Names of the frames of a folder, and the number of video frames that this process decoded."""
    decoded = []

    def share(work):
        complete(decoded.append(step) for step in work)

    process = this_process().process_index
    found = find_frames(FramesConfig(root=str(root)), keep, process=process, processes=2, complete=share)
    return [frame.name for frame in found], len(decoded)
