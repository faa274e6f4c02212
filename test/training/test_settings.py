import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lvad_perception.datasets.bdd100k import open_split
from lvad_perception.errors import ConfigError, DatasetError
from lvad_perception.vocabulary import TASKS
from lvad_training.data.settings import make_lists, read_lists, write_lists

PATTERNS = [{task for bit, task in enumerate(TASKS) if code >> bit & 1} for code in range(2 ** len(TASKS))]


class NamedImages:
    """Of a split only what the choice looks at: names and what each is annotated for."""

    root = Path("nowhere")
    name = "train"

    def __init__(self, tasks_of):
        self.tasks_of = tasks_of
        self.names = list(tasks_of)

    def __len__(self):
        return len(self.tasks_of)

    def name_of(self, index):
        return self.names[index]

    def annotated_for(self, task):
        return np.array([task in tasks for tasks in self.tasks_of.values()], np.bool_)


def images(*counts_and_tasks):
    """``images((4, "detection semantic"), …)``: four images that are annotated for both."""
    everything = [set(tasks.split()) for count, tasks in counts_and_tasks for _ in range(count)]
    return NamedImages({f"image-{number:04d}": tasks for number, tasks in enumerate(everything)})


ALL = " ".join(TASKS)


def choose(split, indices=None, setting="disjoint_normal", seed=0, **options):
    return make_lists(split, indices, setting=setting, seed=seed, **options)


def counts(lists):
    return {task: len(names) for task, names in lists.images.items()}


def is_disjoint(lists):
    names = [name for task in lists.images for name in lists.images[task]]
    return len(names) == len(set(names))


splits = st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=40).map(
    lambda patterns: NamedImages({f"n{number}": pattern for number, pattern in enumerate(patterns)})
)


def test_full_is_everything_as_annotated():
    split = images((2, ALL), (3, "detection"), (1, ""))
    lists = choose(split, setting="full")
    assert counts(lists) == {"detection": 5, "semantic": 2, "drivable": 2}
    assert not lists.scaled
    assert lists.images["semantic"] == ("image-0000", "image-0001")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("disjoint_normal", {"detection": 99, "semantic": 70, "drivable": 198}),
        ("disjoint_balance", {"detection": 123, "semantic": 122, "drivable": 122}),
    ],
)
def test_a_small_data_set_is_divided_in_the_papers_proportions(setting, expected):
    lists = choose(images((367, ALL)), setting=setting)
    assert counts(lists) == expected
    assert lists.scaled
    assert is_disjoint(lists)


def test_the_papers_sizes_are_taken_where_they_fit():
    split = images((18_000, "detection drivable"), (4_000, "semantic"), (3_000, ALL), (12_000, "drivable"))
    lists = choose(split)
    assert counts(lists) == {"detection": 10_000, "semantic": 7_000, "drivable": 20_000}
    assert not lists.scaled


@given(split=splits, setting=st.sampled_from(["disjoint_normal", "disjoint_balance"]), seed=st.integers(0, 3))
def test_lists_are_disjoint_and_name_only_annotated_images(split, setting, seed):
    try:
        lists = choose(split, setting=setting, seed=seed)
    except DatasetError:
        assume(False)
    assert is_disjoint(lists)
    assert all(task in split.tasks_of[name] for task, names in lists.images.items() for name in names)
    assert min(counts(lists).values()) >= 1
    assert all(list(names) == sorted(names) for names in lists.images.values())


@given(assigned=st.lists(st.sampled_from([*TASKS, None]), max_size=25), more=st.data(), seed=st.integers(0, 3))
def test_whatever_sizes_can_be_had_are_had(assigned, more, seed):
    """Images are made for a known solution, and then annotated for other tasks too."""
    wanted = {task: assigned.count(task) for task in TASKS}
    assume(min(wanted.values()) > 0)
    tasks_of = {f"n{i}": {task} - {None} | more.draw(st.sampled_from(PATTERNS)) for i, task in enumerate(assigned)}
    sizes = {task: size if size > 1 else 1 / len(assigned) for task, size in wanted.items()}
    assert counts(choose(NamedImages(tasks_of), seed=seed, sizes=sizes)) == wanted


@given(order=st.permutations(range(12)), seed=st.integers(0, 3))
def test_the_order_of_the_images_does_not_matter(order, seed):
    tasks_of = {f"n{i}": PATTERNS[-1 - i % 5] for i in range(12)}
    shuffled = NamedImages({f"n{i}": tasks_of[f"n{i}"] for i in order})
    assert choose(shuffled, seed=seed) == choose(NamedImages(tasks_of), seed=seed)


def test_the_choice_is_the_same_on_every_machine_and_differs_by_seed():
    split = images((9, ALL))
    assert choose(split, setting="disjoint_balance").images == {
        "detection": ("image-0001", "image-0002", "image-0003"),
        "semantic": ("image-0000", "image-0007", "image-0008"),
        "drivable": ("image-0004", "image-0005", "image-0006"),
    }
    assert choose(split, seed=1) != choose(split, seed=2)


def test_only_the_given_images_are_chosen_from():
    lists = choose(images((20, ALL)), range(10, 16))
    names = {name for task in lists.images for name in lists.images[task]}
    assert names == {f"image-{number:04d}" for number in range(10, 16)}


def test_sizes_are_images_above_one_and_shares_up_to_it():
    lists = choose(images((40, ALL)), sizes={"detection": 5, "semantic": 0.25, "drivable": 0.5})
    assert counts(lists) == {"detection": 5, "semantic": 10, "drivable": 20}
    assert not lists.scaled
    thirds = choose(images((367, ALL)), sizes=dict.fromkeys(TASKS, 1 / 3))
    assert counts(thirds) == dict.fromkeys(TASKS, 122)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"setting": "half"}, ConfigError, r"setting 'half' is unknown; choose one of full, disjoint_normal, disj"),
        ({"setting": "full", "sizes": {"semantic": 2}}, ConfigError, "sizes need a disjoint setting"),
        ({"sizes": {"lanes": 2}}, ConfigError, "sizes: task 'lanes' is unknown; the tasks are detection, semantic, dr"),
        ({"sizes": {"semantic": 2.5}}, ConfigError, "semantic is 2.5; give a whole number of images, or a share"),
        ({"sizes": {"semantic": 0}}, ConfigError, "semantic is 0; give a whole number"),
        ({"sizes": {"semantic": float("nan")}}, ConfigError, "semantic is nan; give a whole number"),
        ({"sizes": {"semantic": float("inf")}}, ConfigError, "semantic is inf; give a whole number"),
        ({"sizes": {"semantic": 0.01}}, ConfigError, "semantic is 0.01 of 8 images, less than one; give a larger sh"),
        (
            {"sizes": {"detection": 4, "semantic": 4, "drivable": 2}},
            DatasetError,
            "nowhere: setting disjoint_normal needs at least 10 images of split 'train' that are annotated for "
            "detection or semantic or drivable, and it has 8; give smaller sizes, for every task",
        ),
        (
            {"sizes": {"semantic": 5}},
            DatasetError,
            "at least 10,000 images of split 'train' that are annotated for detection, and it has 8;",
        ),
    ],
)
def test_impossible_settings_say_what_is_wrong(options, error, message):
    with pytest.raises(error, match=message):
        choose(images((8, ALL)), **options)


def test_a_task_without_images_is_named():
    with pytest.raises(DatasetError, match=r"at least 1 images .* annotated for semantic, and it has 0; annotate more"):
        choose(images((8, "detection drivable")))


def test_the_description_counts_the_images():
    assert choose(images((37, ALL)), seed=4).describe() == (
        "disjoint_normal of split 'train' (seed 4, the paper's sizes scaled down): "
        "10 detection, 7 semantic, 20 drivable"
    )


@pytest.fixture
def listed(small_split, tmp_path):
    """A split, its full lists, and the file that they are written to."""
    split = open_split(small_split, "val")
    lists = choose(split, setting="full")
    write_lists(lists, tmp_path / "deep" / "lists.json")
    return split, lists, tmp_path / "deep" / "lists.json"


def test_lists_are_read_as_written(listed):
    split, lists, path = listed
    assert read_lists(path, split) == lists
    assert [file.name for file in path.parent.iterdir()] == ["lists.json"]


def test_a_place_that_cannot_be_written_is_named(listed):
    _, lists, path = listed
    with pytest.raises(ConfigError, match=r"lists\.json/inside: lists cannot be written there .*; choose another path"):
        write_lists(lists, path / "inside")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {"lanes": []}}, "task 'lanes' is unknown; the tasks are detection, semantic, drivable"),
        ({"images": {"semantic": "all"}}, r"these are no lists of images \(Expected `array`.*make it anew with lvad-t"),
        ({"images": {"semantic": ["elsewhere"]}}, "image 'elsewhere' is not in split 'val' of"),
        (
            {"images": {"semantic": ["frame-000"]}},
            "image 'frame-000' of .* is not annotated for semantic; make it anew",
        ),
        ({"split": "train"}, "made for split 'train', not 'val'; make it anew"),
        ({"seed": "one"}, "these are no lists of images"),
    ],
)
def test_lists_that_do_not_fit_are_refused(listed, change, message):
    split, lists, path = listed
    path.write_text(json.dumps({**dataclasses.asdict(lists), **change}))
    with pytest.raises(DatasetError, match=message):
        read_lists(path, split)


def test_files_that_are_no_lists_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.json: these lists cannot be read \(No such file.*check data\.lists"):
        read_lists(tmp_path / "gone.json")
    (tmp_path / "cut.json").write_bytes(b'{"setting": "fu')
    with pytest.raises(DatasetError, match=r"cut\.json: these are no lists of images"):
        read_lists(tmp_path / "cut.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "deep.json").write_bytes(b'{"images": ' + b'{"a":' * 100_000)
    with pytest.raises(DatasetError, match=r"deep\.json: these are no lists of images"):
        read_lists(tmp_path / "deep.json")
    with pytest.raises(DatasetError, match=r"binary\.json: these are no lists of images"):
        read_lists(tmp_path / "binary.json")
