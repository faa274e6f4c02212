"""The benchmark of hostile input, for a moment: what it makes, and that it sees what fails."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The folder ``benchmarks`` belongs to no installed package, here and in the processes that it starts."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_case_is_the_same_in_every_process():
    from benchmarks.hostile.child import hostile_bytes
    from benchmarks.hostile.kinds import KINDS

    examples = [b'{"a": [1, 2.5, "x"], "b": null}', b"c: d"]
    for name in ("message", "labels"):
        made = [hostile_bytes(KINDS[name], name, 0, index, examples, []) for index in range(200)]
        assert made == [hostile_bytes(KINDS[name], name, 0, index, examples, []) for index in range(200)]
        assert len(set(made)) > 150
        assert sum(case in examples for case in made) < 20


def test_rows_of_a_png_are_changed_under_right_checksums():
    import cv2

    from benchmarks.hostile.mutate import mutate_png

    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    valid = bytes(cv2.imencode(".png", image)[1])
    random = np.random.default_rng(0)
    decoded = [cv2.imdecode(np.frombuffer(mutate_png(valid, random), np.uint8), 1) for _ in range(100)]
    different = [found for found in decoded if found is not None and not np.array_equal(found, image)]
    assert len(different) > 10


def test_recipes_are_accepted_or_refused(tmp_path):
    from benchmarks.hostile.__main__ import FAILURES, run_kind
    from benchmarks.hostile.materials import RECIPE

    (tmp_path / "recipe.yaml").write_text(RECIPE)
    tally = run_kind("recipe", count=60, seed=0, workers=1, folder=tmp_path)
    assert sum(tally.outcomes.values()) == 60
    assert tally.outcomes["accepted"] > 5
    assert tally.outcomes["refused"] > 5
    assert not any(tally.outcomes[outcome] for outcome in FAILURES), tally.failures


def test_what_fails_is_counted_by_its_cause():
    from benchmarks.hostile.__main__ import MEMORY, Tally

    tally = Tally()
    tally.add(0, "accepted", "", seconds=0.1, memory=5)
    tally.add(1, "traceback", "ValueError: 'x' in masks.py:1", seconds=0.2)
    tally.add(2, "traceback", "UncountedLossError: '5 of 6 images, 0 counted, 0 reported' in kinds.py:1")
    tally.add(3, "refused", "too large", memory=MEMORY + 1)
    assert dict(tally.outcomes) == {"accepted": 1, "traceback": 1, "uncounted": 1, "memory": 1}
    assert list(tally.failures.values()) == [[1], [2], [3]]
    assert tally.memory == MEMORY + 1


CHILD = """
import json, os, sys, time
_, _, first, step, stop, _, _ = json.loads(sys.argv[1])
for index in range(first, stop, step):
    print(json.dumps({"index": index}), flush=True)
    if index == 1:
        os.abort()
    if index == 2:
        time.sleep(60)
    print(json.dumps({"outcome": "accepted", "what": "", "seconds": 0.0, "memory": 0}), flush=True)
"""


def test_a_case_that_kills_or_never_ends_is_counted_and_the_next_is_read(tmp_path, monkeypatch):
    from benchmarks.hostile import __main__ as hostile

    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setattr(hostile, "CHILD", (str(tmp_path / "child.py"),))
    monkeypatch.setattr(hostile, "PATIENCE_S", 1.0)
    tally = hostile.run_kind("png", count=5, seed=0, workers=2, folder=tmp_path)
    assert dict(tally.outcomes) == {"accepted": 3, "crash": 1, "hang": 1}
    assert tally.failures == {"crash: status -6": [1], "hang: over 1 s": [2]}
