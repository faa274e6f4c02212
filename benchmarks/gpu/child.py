"""The process of one part: ``python -m benchmarks.gpu.child JOB STARTED``, started by ``supervise.run_part``."""

import importlib
import sys
import traceback

from benchmarks.gpu.job import Job, Recorder, Unavailable, one_line


def main(job_text: str, started: str) -> int:
    """Run one part; 0 also when it was skipped, 1 when it failed."""
    job = Job.from_json(job_text)
    recorder = Recorder(job, float(started))
    try:
        _require_device(job)
        importlib.import_module(job.module).run(recorder)
    except Unavailable as err:
        recorder.outcome("skipped", str(err))
    except Exception as err:  # whatever it is, the other parts go on
        traceback.print_exc()
        recorder.outcome("failed", one_line(err))
        return 1
    return 0


def _require_device(job: Job) -> None:
    if job.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise Unavailable("torch finds no CUDA GPU here; --cpu tries the code on the CPU")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
