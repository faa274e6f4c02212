from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvad_perception.vocabulary import TASKS
from lvad_training.data.sampling import OneTaskStream, TrainingStream

IMAGES = {"detection": [0, 1, 2, 3, 4, 5], "semantic": [6, 7, 8], "drivable": [0, 9, 10, 11, 12, 13, 14, 15, 16]}
ORDERS = ["uniform", "weighted", "round_robin"]


def shuffled(**changes):
    return TrainingStream(**{"count": 7, "batch_size": 3, "seed": 0, "first": 0, "last": 20, **changes})


def one_task(order="uniform", **changes):
    options = {"images": IMAGES, "order": order, "batch_size": 4, "seed": 0, "first": 0, "last": 30}
    return OneTaskStream(**{**options, **changes})


def any_stream(order, **changes):
    return shuffled(**changes) if order == "shuffle" else one_task(order, **changes)


def tasks_of(stream):
    return [{task for _, _, task in batch} for batch in stream]


@given(count=st.integers(1, 30), batch_size=st.integers(1, 8), seed=st.integers(0, 5))
def test_every_epoch_holds_every_image_once(count, batch_size, seed):
    keys = [key for batch in shuffled(count=count, batch_size=batch_size, seed=seed, last=40) for key in batch]
    whole = Counter(key for key in keys if key[0] < keys[-1][0])
    assert set(whole.values()) <= {1}
    assert len(whole) == keys[-1][0] * count
    assert {task for _, _, task in keys} == {None}


@given(order=st.sampled_from(ORDERS), batch_size=st.integers(1, 8), seed=st.integers(0, 5))
def test_every_task_runs_through_its_own_epochs(order, batch_size, seed):
    seen = defaultdict(list)
    for batch in one_task(order, batch_size=batch_size, seed=seed, last=40):
        for epoch, index, task in batch:
            seen[task].append((epoch, index))
    for task, keys in seen.items():
        size = len(IMAGES[task])
        for epoch, start in enumerate(range(0, len(keys), size)):
            part = keys[start : start + size]
            assert {number for number, _ in part} == {epoch}
            assert len(set(part)) == len(part)
            assert {index for _, index in part} <= set(IMAGES[task])


@given(order=st.sampled_from(["shuffle", *ORDERS]), split=st.integers(0, 25), seed=st.integers(0, 3))
def test_a_stream_can_start_anywhere(order, split, seed):
    whole = list(any_stream(order, seed=seed, last=25))
    resumed = any_stream(order, seed=seed, first=split, last=25)
    assert list(any_stream(order, seed=seed, last=split)) + list(resumed) == whole
    assert len(resumed) == 25 - split


@pytest.mark.parametrize("order", ["shuffle", *ORDERS])
def test_the_seed_decides(order):
    assert list(any_stream(order, seed=1)) == list(any_stream(order, seed=1))
    assert list(any_stream(order, seed=1)) != list(any_stream(order, seed=2))


@pytest.mark.parametrize("order", ["shuffle", *ORDERS])
def test_processes_share_each_step(order):
    together = list(any_stream(order, batch_size=6))
    parts = [list(any_stream(order, batch_size=3, process=rank, processes=2)) for rank in range(2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == together


@pytest.mark.parametrize("order", ORDERS)
def test_a_step_learns_one_task(order):
    assert all(len(tasks) == 1 for tasks in tasks_of(one_task(order)))


def test_round_robin_takes_turns():
    assert tasks_of(one_task("round_robin", last=7)) == [{task} for task in [*TASKS, *TASKS, "detection"]]


@pytest.mark.parametrize(
    ("order", "shares"),
    [
        ("uniform", dict.fromkeys(TASKS, 1 / 3)),
        ("weighted", {task: len(images) / 18 for task, images in IMAGES.items()}),
    ],
)
def test_tasks_are_drawn_with_their_frequency(order, shares):
    steps = 4000
    found = Counter(batch[0][2] for batch in one_task(order, batch_size=1, last=steps))
    for task, share in shares.items():
        assert found[task] / steps == pytest.approx(share, abs=0.03)  # four standard deviations


def test_tasks_with_the_same_images_have_different_orders():
    same = {"detection": range(20), "semantic": range(20)}
    first, second = one_task("round_robin", images=same, batch_size=20, last=2)
    assert [index for _, index, _ in first] != [index for _, index, _ in second]


def test_one_task_alone_always_has_its_turn():
    assert tasks_of(one_task("weighted", images={"semantic": [3]}, last=3)) == [{"semantic"}] * 3
