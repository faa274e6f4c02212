import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lvad_perception.datasets.bdd100k import index
from lvad_perception.datasets.bdd100k.index import open_table
from lvad_perception.errors import DatasetError, LabelError

REPOSITORY = Path(__file__).resolve().parents[2]


def write(path, frames):
    path.write_text(json.dumps(frames))
    return path


def label(category, x1, y1, x2, y2, **more):
    return {"category": category, "box2d": {"x1": x1, "y1": y1, "x2": x2, "y2": y2}, **more}


@pytest.fixture
def labels(tmp_path):
    """Two frames out of order, with a crowd, an ignored category and labels that are skipped."""
    frames = [
        {
            "name": "b.jpg",
            "attributes": {"weather": "rainy", "scene": "highway"},
            "timestamp": 10000,
            "labels": [
                label("person", 1, 2, 3, 4),
                label("other vehicle", 0, 0, 9, 9),
                label("bus", 5, 5, 8, 8, attributes={"crowd": True}),
                label("car", 7, 7, 3, 9),
                label("spaceship", 0, 0, 1, 1),
                {"category": "rider"},
                {"category": "lane", "poly2d": [{"vertices": [[0, 0], [1, 1]], "types": "LL"}]},
            ],
        },
        {"name": "a.jpg", "labels": [label("bicycle", 0.5, 0.25, 10, 20)]},
        {"name": "b.jpg", "labels": []},
    ]
    return write(tmp_path / "det_train.json", frames)


def test_boxes_are_continuous_and_grouped_by_sorted_frame(labels, tmp_path):
    table = open_table(labels, tmp_path / "cache")
    assert table.names.tolist() == [b"a", b"b"]
    boxes, classes, crowd = table.boxes(0)
    np.testing.assert_array_equal(boxes, [[0.5, 0.25, 11, 21]])
    assert (classes.tolist(), crowd.tolist()) == ([7], [False])
    boxes, classes, crowd = table.boxes(1)
    np.testing.assert_array_equal(boxes, [[1, 2, 4, 5], [0, 0, 10, 10], [5, 5, 9, 9]])
    assert (classes.tolist(), crowd.tolist()) == ([0, 2, 4], [False, True, True])
    assert boxes.dtype == np.float32
    assert classes.dtype == np.int32
    assert table.class_counts().tolist() == [1, 0, 1, 0, 1, 0, 0, 1, 0, 0]


def test_skipped_labels_are_recorded(labels, tmp_path):
    problems = open_table(labels, tmp_path / "cache").problems
    assert problems.unknown_categories == {"spaceship": 1}
    assert problems.shapeless == 1
    assert [tuple(item) for item in problems.degenerate_boxes] == [("b", 1)]
    assert problems.duplicates == ["b"]


def test_attributes_times_and_rows(labels, tmp_path):
    table = open_table(labels, tmp_path / "cache")
    assert table.attributes(1) == {"weather": "rainy", "scene": "highway"}
    assert table.attributes(0) == {}
    assert (table.timestamp_ms(0), table.timestamp_ms(1)) == (None, 10000)
    assert table.rows_of(np.array([b"b", b"c", b"a", b"aaaaaaaaaaaaaaaa"])).tolist() == [1, -1, 0, -1]


def test_frames_are_read_back_from_their_source(labels, tmp_path):
    table = open_table(labels, tmp_path / "cache")
    assert [thing.category for thing in table.frame(0).all_labels] == ["bicycle"]
    assert len(table.frame(1).all_labels) == 7
    write(labels, [{"name": "a.jpg"}])
    with pytest.raises(DatasetError, match=r"det_train\.json changed while the data set was open; start again"):
        table.frame(0)
    labels.unlink()
    with pytest.raises(LabelError, match="cannot be read"):
        table.frame(0)


@pytest.mark.parametrize("frames", [[], [{"name": "a"}], [{"name": "a", "labels": None}], {"frames": []}])
def test_files_without_frames_or_boxes_open(tmp_path, frames):
    table = open_table(write(tmp_path / "det.json", frames), tmp_path / "cache")
    assert len(table) == (1 if isinstance(frames, list) and frames else 0)
    assert table.class_counts().sum() == 0
    assert table.rows_of(np.array([b"z"])).tolist() == [-1]


def test_a_second_start_reads_the_cache_unless_the_file_changed(labels, tmp_path, monkeypatch):
    open_table(labels, tmp_path / "cache")
    monkeypatch.setattr(index, "read_source", None)  # calling it would raise TypeError
    assert len(open_table(labels, tmp_path / "cache")) == 2
    monkeypatch.undo()
    write(labels, [{"name": "c.jpg"}])
    assert open_table(labels, tmp_path / "cache").names.tolist() == [b"c"]


@pytest.mark.parametrize("name", ["meta.json", "boxes.npy"])
def test_beside_a_damaged_table_another_is_made_once(labels, tmp_path, monkeypatch, name):
    open_table(labels, tmp_path / "cache")
    (folder,) = (tmp_path / "cache" / "labels").iterdir()
    (folder / name).write_bytes(b"")
    assert len(open_table(labels, tmp_path / "cache").boxes(1)[0]) == 3
    assert len(list((tmp_path / "cache" / "labels").iterdir())) == 2
    monkeypatch.setattr(index, "read_source", None)  # calling it would raise TypeError
    assert len(open_table(labels, tmp_path / "cache").boxes(1)[0]) == 3


def test_no_start_removes_the_table_that_another_made_meanwhile(labels, tmp_path, monkeypatch):
    """Both saw a damaged one; the second has written its own before the first replaces anything."""
    cache = tmp_path / "cache"
    open_table(labels, cache)
    (folder,) = (cache / "labels").iterdir()
    (folder / "meta.json").write_bytes(b"")
    theirs = []
    read_source = index.read_source

    def read_slowly(*arguments, **options):
        monkeypatch.setattr(index, "read_source", read_source)
        theirs.append(open_table(labels, cache))
        return read_source(*arguments, **options)

    monkeypatch.setattr(index, "read_source", read_slowly)
    open_table(labels, cache)
    assert len(pickle.loads(pickle.dumps(theirs[0])).boxes(1)[0]) == 3  # opens its files again


def test_a_table_that_is_opened_now_and_then_stays(labels, tmp_path):
    cache = tmp_path / "cache"
    old = open_table(labels, cache)
    stat, content = labels.stat(), labels.read_bytes()
    os.utime(old._folder, (0, 0))
    open_table(labels, cache)  # a long training starts
    write(labels, [{"name": "c.jpg"}])
    open_table(labels, cache)
    labels.write_bytes(content)
    os.utime(labels, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_table(labels, cache)._folder == old._folder


def test_tables_pickle_as_their_path(labels, tmp_path):
    table = open_table(labels, tmp_path / "cache")
    data = pickle.dumps(table)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).boxes(1)[0], table.boxes(1)[0])
    assert isinstance(table._arrays["boxes"], np.memmap)


def test_cache_falls_back_where_the_home_cannot_be_written(labels, tmp_path, monkeypatch):
    home = tmp_path / "file"
    home.write_text("in the way of a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert len(open_table(labels)) == 2
    assert list((tmp_path / "temporary").rglob("meta.json"))
    with pytest.raises(DatasetError, match=r"the label cache cannot be written to .*; pass a cache directory"):
        open_table(labels, home)


def test_stale_tables_of_a_source_are_removed_and_recent_ones_kept(labels, tmp_path):
    cache = tmp_path / "cache"
    open_table(labels, cache)
    write(labels, [{"name": "c.jpg"}])
    open_table(labels, cache)
    assert len(list((cache / "labels").iterdir())) == 2
    long_ago = time.time() - 90 * 24 * 3600
    for folder in (cache / "labels").iterdir():
        os.utime(folder, (long_ago, long_ago))
    write(labels, [{"name": "d.jpg"}])
    table = open_table(labels, cache)
    assert [folder.name for folder in (cache / "labels").iterdir()] == [table._folder.name]


def test_concurrent_first_starts_agree(labels, tmp_path):
    code = (
        "import sys; from pathlib import Path; from lvad_perception.datasets.bdd100k.index import open_table; "
        "print(len(open_table(Path(sys.argv[1]), Path(sys.argv[2])).boxes(1)[0]))"
    )
    command = [sys.executable, "-c", code, str(labels), str(tmp_path / "cache")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) for _ in range(4)]
    assert [process.communicate()[0].strip() for process in started] == [b"3"] * 4
    assert len(list((tmp_path / "cache" / "labels").iterdir())) == 1


@given(
    st.dictionaries(
        st.from_regex(r"[a-zA-Z0-9é_-]{1,12}", fullmatch=True),
        st.lists(st.tuples(st.sampled_from(["car", "person", "trailer"]), *[st.integers(-50, 2000)] * 4), max_size=5),
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_frames_come_back(tmp_path, frames):
    entries = [{"name": f"{name}.jpg", "labels": [label(*box) for box in boxes]} for name, boxes in frames.items()]
    table = open_table(write(tmp_path / "any.json", entries), tmp_path / "cache")
    rows = table.rows_of(np.array([name.encode() for name in frames] or [b"-"]))
    for row, boxes in zip(rows, frames.values(), strict=False):
        kept = [box for box in boxes if box[3] + 1 > box[1] and box[4] + 1 > box[2]]
        np.testing.assert_array_equal(
            table.boxes(row)[0], np.array([(x1, y1, x2 + 1, y2 + 1) for _, x1, y1, x2, y2 in kept]).reshape(-1, 4)
        )


def test_benchmark_runs_small():
    command = [sys.executable, "-m", "benchmarks.label_index", "--frames", "40"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert result.returncode == 0, result.stderr
    assert "first   start" in result.stdout
    assert "40 frames" in result.stdout
