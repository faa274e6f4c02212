"""Worker processes of the data loader: transport of batches, and errors when they lack resources or die."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from lvad_perception.errors import LoaderError
from lvad_training.data import loader
from lvad_training.data.loader import guarded_loader
from lvad_training.samples import Batch, Targets


class Spoilt(Dataset):
    """Four samples of a few kilobytes; reading the last one calls ``spoil`` in the worker process."""

    def __init__(self, spoil=None, *arguments, side=32):
        self.spoil, self.arguments, self.side = spoil, arguments, side

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 3 and self.spoil is not None:
            self.spoil(*self.arguments)
        return torch.full((3, self.side, self.side), index, dtype=torch.uint8)


def fail(kind, *arguments):
    raise kind(*arguments)


def be_killed(number):
    os.kill(os.getpid(), number)


def open_no_more_files():
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1], resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def read(dataset, workers=1):
    return list(guarded_loader(dataset, workers, torch.stack, batch_size=1))


def test_a_batch_arrives_as_it_was_sent_in_one_piece_of_shared_memory():
    targets = [
        Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None, None),
        Targets(torch.rand(3, 4), torch.arange(3), torch.ones((8, 8), dtype=torch.uint8)[:, ::2], None),
    ]
    sent = (Batch(["a", "b"], torch.rand(2, 3, 8, 8), targets), np.arange(5, dtype=np.float64), "text")
    packed = loader._pack(sent)
    assert len(packed.spans) == 6
    batch, array, text = loader._unpack(packed)
    assert (batch.names, text) == (["a", "b"], "text")
    assert torch.equal(batch.images, sent[0].images)
    assert batch.targets[0].boxes_xyxy.shape == (0, 4)
    assert all(
        torch.equal(getattr(batch.targets[1], name), getattr(targets[1], name))
        for name in ("boxes_xyxy", "labels", "semantic")
    )
    assert array.tolist() == [0, 1, 2, 3, 4]
    batch.images[:] = 1
    array[:] = 2  # batches are writable, and their parts do not overlap
    assert batch.targets[1].labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            (be_killed, signal.SIGKILL),
            r"was killed, which is what the system does when memory runs out; give more memory",
        ),
        ((open_no_more_files,), r"too many files are open \(\d+ may be\); .* with ulimit -n 4096"),
        ((fail, MemoryError), r"memory is full; give more memory, lower data.workers"),
    ],
)
def test_a_process_without_resources_or_killed_ends_the_training_with_cause_and_remedy(spoil, message):
    with pytest.raises(LoaderError, match=message):
        read(Spoilt(*spoil))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-signal.SIGBUS, r"shared memory is full \(/dev/shm has \d+ of \d+ MB free\); .* --shm-size 16g"),
        (-signal.SIGSEGV, r"ended by signal SIGSEGV; set data.workers to 0 to see where"),
        (7, r"ended with status 7; set data.workers to 0"),
    ],
)
def test_the_exit_code_of_a_process_gives_the_cause(code, message):
    ended = [SimpleNamespace(exitcode=exitcode) for exitcode in (None, 0, code)]
    with pytest.raises(LoaderError, match=message):
        raise loader._worker_failure(ended)
    assert loader._worker_failure(ended[:2]) is None


class Dying:
    """A process whose exit code is available only at the third query."""

    asked = 0

    @property
    def exitcode(self):
        self.asked += 1
        return -signal.SIGKILL if self.asked > 2 else None


def test_a_lost_batch_reports_the_death_of_its_process(monkeypatch):
    class Workers:
        _workers = (Dying(),)

        def __iter__(self):
            return self

        def __next__(self):
            return loader._Packed(b"", [], b"")

    def gone(packed):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(loader, "_unpack", gone)
    with pytest.raises(LoaderError, match="was killed, which is what the system does when memory runs out"):
        next(iter(loader.Batches(Workers())))


@pytest.mark.parametrize(
    ("err", "message"),
    [
        (OSError(errno.ENOSPC, "No space"), r"shared memory is full"),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), r"shared memory is full"),
        (RuntimeError("unable to open shared memory object: Too many open files (24)"), r"too many files are open"),
        (RuntimeError("received 0 items of ancdata"), r"too many files are open"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), r"no more processes .* ulimit -u"),
        (RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)"), r"memory is full"),
    ],
)
def test_errors_of_torch_and_the_system_are_recognised_as_shortages(err, message):
    assert loader._shortage(err) is not None
    with pytest.raises(LoaderError, match=message):
        raise loader._shortage(err)


@pytest.mark.parametrize("workers", [0, 1])
def test_other_errors_are_raised_as_they_are(workers):
    with pytest.raises(RuntimeError, match="of a bug") as caught:
        read(Spoilt(fail, RuntimeError, "of a bug"), workers)
    assert not isinstance(caught.value, LoaderError)


LIMITED = """
from test.training.test_loader import Spoilt, read

if __name__ == "__main__":
    try:
        print(len(read(Spoilt(side={side}), workers={workers})), "batches")
    except Exception as err:
        print(type(err).__name__, err)
"""


def limited(command, tmp_path, **settings):
    """Output of reading batches in a process that the shell command ``command`` starts with limited resources."""
    script = tmp_path / "script.py"
    script.write_text(LIMITED.format(**settings))
    line = f"{command} {sys.executable} {script}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=400)


KILLED = """
import os, signal
from test.training.test_loader import Spoilt
from lvad_training.data.loader import guarded_loader

if __name__ == "__main__":
    batches = iter(guarded_loader(Spoilt(), 1, list, batch_size=1))
    next(batches)
    print(batches.gi_frame.f_locals["processes"][0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_when_the_training_is_killed_its_processes_end(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with (tmp_path / "process").open("w") as printed:  # not a pipe, which the process that is left would keep open
        done = subprocess.run([sys.executable, script], env=environment, stdout=printed, timeout=200, check=False)
    assert done.returncode == -signal.SIGKILL
    process = int((tmp_path / "process").read_text())
    until = time.monotonic() + 20
    while is_running(process) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_running(process)


def is_running(process):
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_256_open_files_are_enough(tmp_path):
    done = limited("ulimit -n 256;", tmp_path, side=64, workers=2)
    assert done.stdout == "4 batches\n", done.stderr


@pytest.mark.slow
def test_a_full_dev_shm_is_reported(tmp_path):
    small = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=8m tmpfs /dev/shm"]
    if subprocess.run(small, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a small /dev/shm")
    inside = "unshare -m sh -c 'mount -t tmpfs -o size=8m tmpfs /dev/shm; exec \"$@\"' sh"
    done = limited(inside, tmp_path, side=2000, workers=1)  # batches of 12 MB
    assert "LoaderError processes that load images cannot go on: shared memory is full (/dev/shm has" in done.stdout
