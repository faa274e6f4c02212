import errno
import os

import pytest

from lvad_perception.errors import ConfigError, DatasetError
from lvad_training.files import replacing, withdrawn, write_whole
from lvad_training.records import RECORD, write_record


@pytest.fixture
def full_disk(monkeypatch):
    """From now on no file reaches the disk."""

    def fail(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize(("content", "data"), [("ü\n", b"\xc3\xbc\n"), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_text_and_bytes_are_written_into_a_new_folder(tmp_path, content, data):
    path = tmp_path / "deep" / "er" / "file"
    write_whole(path, content)
    assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_text("something longer than what follows")
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("full_disk")
def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("full_disk")
def test_a_failure_leaves_no_file_where_there_was_none(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, "new")
    assert tmp_path.is_dir()
    assert [path for path in tmp_path.parent.iterdir() if path.name.endswith(".partial")] == []


def test_whatever_ends_the_writing_the_old_content_stays(tmp_path):
    path, partial = tmp_path / "file", tmp_path / "partial"
    path.write_text("old")

    def interrupted():
        with replacing(path, partial=partial) as file:
            file.write(b"half")
            file.flush()
            assert partial.read_bytes() == b"half"
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_kill_left_is_overwritten(tmp_path):
    path, partial = tmp_path / "file", tmp_path / "partial"
    partial.write_text("half of what a killed process wrote")
    with replacing(path, partial=partial) as file:
        file.write(b"new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_in_two_processes_do_not_meet(tmp_path, monkeypatch):
    """Each has a partial file of its own: the one that ends last wins, whole."""
    path = tmp_path / "file"
    fsync = os.fsync

    def write_in_between(descriptor):
        monkeypatch.setattr(os, "fsync", fsync)
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: 2)
            write_whole(path, "of the other process")
        assert len(list(tmp_path.iterdir())) == 2
        fsync(descriptor)

    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(os, "fsync", write_in_between)
    write_whole(path, "of the one")
    assert path.read_text() == "of the one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def refused():
    """A block that writes ``path`` and then refuses its input; ``also`` is another file that it wrote by then."""

    def run(path, also=None, error=DatasetError):
        def block():
            with withdrawn(path, unless=lambda: also is not None):
                write_whole(path, "new")
                if also is not None:
                    write_whole(also, "new")
                raise error

        with pytest.raises(error):
            block()

    return run


def test_refused_input_leaves_no_file_and_no_folder_made_for_it(refused, tmp_path):
    refused(tmp_path / "deep/er/file")
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays(refused, tmp_path):
    (tmp_path / "mine").mkdir()
    refused(tmp_path / "mine/deep/file")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]
    (tmp_path / "mine/file").touch()
    refused(tmp_path / "mine/file")
    assert (tmp_path / "mine/file").is_file()


def test_what_was_made_keeps_the_file(refused, tmp_path):
    refused(tmp_path / "deep/file", also=tmp_path / "deep/result")
    assert (tmp_path / "deep/file").is_file()


def test_an_interruption_is_no_refusal(refused, tmp_path):
    refused(tmp_path / "deep/file", error=KeyboardInterrupt)
    assert (tmp_path / "deep/file").is_file()


@pytest.mark.usefixtures("full_disk")
def test_a_file_that_cannot_be_written_leaves_no_folder(tmp_path):
    folder = tmp_path / "deep/er"
    with pytest.raises(ConfigError, match="No space left"), withdrawn(folder / RECORD, unless=lambda: False):
        write_record(folder, {}, "running", 0.0)
    assert list(tmp_path.iterdir()) == []
