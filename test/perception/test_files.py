import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lvad_perception import files
from lvad_perception.errors import DatasetError
from lvad_perception.files import draft, removed_on_error, replacing, write_whole


@pytest.fixture
def full_disk(monkeypatch):
    """Make flushing to the disk fail, as on a full one."""

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


def test_a_folder_with_files_is_not_replaced(tmp_path):
    (tmp_path / "folder/mine").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "folder", "new")
    with pytest.raises(OSError, match="not empty"), draft(tmp_path / "folder") as own:
        own.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "mine"]


def test_the_old_content_survives_a_killed_writer(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted():
        with replacing(path) as file:
            file.write(b"half")
            file.flush()
            assert sorted(found.read_text() for found in tmp_path.iterdir()) == ["half", "old"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    def write(*, fails):
        with draft(tmp_path / "folder") as own:
            (own / "deep").mkdir(parents=True)
            (own / "deep/file").touch()
            if fails:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(fails=True)
    assert list(tmp_path.iterdir()) == []
    write(fails=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "file", "folder"]


def test_a_block_that_writes_nothing_leaves_all_as_it_was(tmp_path):
    (tmp_path / "file").write_text("old")
    with draft(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "old"


def test_a_draft_has_the_ending_of_its_file_and_a_long_name_stays_possible(tmp_path):
    path = tmp_path / ("ü" * 120 + ".onnx")  # 240 bytes
    with draft(path) as own:
        own.touch()
        assert own.suffix == ".onnx"
    assert path.exists()


def test_concurrent_writers_do_not_disturb_each_other(tmp_path):
    """Each has its own draft, and the last one to finish wins."""
    path = tmp_path / "file"
    with replacing(path) as one:
        one.write(b"of the ")
        write_whole(path, "of the other")
        assert path.read_text() == "of the other"
        one.write(b"one")
    assert path.read_text() == "of the one"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from lvad_perception.files import draft
with draft(Path(sys.argv[1])) as own:
    own.mkdir() if sys.argv[2] == "folder" else own.write_text("half")
    if sys.argv[3] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_drafts_of_killed_processes_are_removed_and_of_running_ones_kept(tmp_path, kind):
    path = tmp_path / "mine"
    command = [sys.executable, "-c", KILLED, str(path), kind]
    assert subprocess.run([*command, "killed"], check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".mine.")
    living = subprocess.Popen([*command, "living"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert living.stdout.readline() == b"writing\n"
    (draft_of_living,) = tmp_path.iterdir()
    assert draft_of_living != left
    files._remove_abandoned.cache_clear()  # as in a new process
    write_whole(tmp_path / "other", "")
    assert set(tmp_path.iterdir()) == {draft_of_living, tmp_path / "other"}
    living.communicate(timeout=60)
    assert {found.name for found in tmp_path.iterdir()} == {"mine", "other"}


def test_drafts_of_other_machines_are_removed_after_a_day(tmp_path):
    theirs = tmp_path / ".mine.0123abcd-1-89abcdef.partial.pt"
    alike = tmp_path / ".mine.partial"
    for path in (theirs, alike):
        path.touch()
    files._remove_abandoned.cache_clear()
    write_whole(tmp_path / "one", "")
    assert theirs.exists()
    for path in (theirs, alike):
        os.utime(path, (0, 0))
    files._remove_abandoned.cache_clear()
    write_whole(tmp_path / "two", "")
    assert {path.name for path in tmp_path.iterdir()} == {".mine.partial", "one", "two"}


def test_a_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o600)
    write_whole(path, "secret")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("secret", 0o600)


class TestLinks:
    @pytest.mark.parametrize("old", ["old", None])
    def test_the_target_of_a_link_is_replaced_and_the_link_stays(self, tmp_path, old):
        target, link = tmp_path / "disk/target", tmp_path / "link"
        link.symlink_to("between")
        (tmp_path / "between").symlink_to(target)
        if old is not None:
            target.parent.mkdir()
            target.write_text(old)
        write_whole(link, "new")
        assert link.is_symlink()
        assert (link.read_text(), target.read_text()) == ("new", "new")
        assert list(target.parent.iterdir()) == [target]

    def test_a_failure_leaves_the_target_as_it_was(self, tmp_path, full_disk):
        (tmp_path / "target").write_text("old")
        (tmp_path / "link").symlink_to("target")
        with pytest.raises(OSError, match="No space left"):
            write_whole(tmp_path / "link", "new")
        assert (tmp_path / "link").read_text() == "old"

    def test_links_in_a_circle_are_an_error(self, tmp_path):
        (tmp_path / "link").symlink_to("link")
        with pytest.raises(OSError, match="symbolic links"):
            write_whole(tmp_path / "link", "new")


class TestDevicesAndPipes:
    @pytest.mark.parametrize("through", ["itself", "a link"])
    def test_a_device_stays_a_device(self, tmp_path, through):
        path = Path("/dev/null")
        if through == "a link":
            path = tmp_path / "link"
            path.symlink_to("/dev/null")
        write_whole(path, "gone")
        with draft(path) as own:
            own.write_text("gone")
        assert stat.S_ISCHR(path.stat().st_mode)
        assert stat.S_ISCHR(Path("/dev/null").lstat().st_mode)

    def test_a_device_that_is_full_is_an_error(self):
        with pytest.raises(OSError, match="No space left"):
            write_whole(Path("/dev/full"), "new")
        assert stat.S_ISCHR(Path("/dev/full").lstat().st_mode)

    def test_a_pipe_gets_the_whole_content(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE)
        with replacing(tmp_path / "pipe") as file:
            file.write(b"0" * 100_000)  # more than a pipe holds
        assert reader.communicate(timeout=60)[0] == b"0" * 100_000
        assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)

    def test_a_failure_sends_nothing(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with os.fdopen(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK), "rb") as pipe:
            with pytest.raises(ZeroDivisionError), replacing(tmp_path / "pipe") as file:
                file.write(b"half" * (1 // 0))
            assert not pipe.read()

    @pytest.mark.parametrize("to", ["pipe", "file", "nowhere"])
    def test_standard_output_gets_the_content_after_printed_text(self, tmp_path, to):
        code = (
            "from pathlib import Path; from lvad_perception.files import write_whole\n"
            "print('printed'); write_whole(Path('/dev/stdout'), 'written\\n'); print('printed again')"
        )
        place = {"pipe": subprocess.PIPE, "file": (tmp_path / "file").open("wb"), "nowhere": subprocess.DEVNULL}
        ended = subprocess.run([sys.executable, "-c", code], stdout=place[to], stderr=subprocess.PIPE, check=False)
        assert (ended.returncode, ended.stderr) == (0, b"")
        found = {"pipe": ended.stdout, "file": (tmp_path / "file").read_bytes(), "nowhere": None}[to]
        assert found in (None, b"printed\nwritten\nprinted again\n")


@pytest.fixture
def refused():
    """A block that writes ``path`` and then refuses its input; ``also`` is a result that it wrote before."""

    def run(path, also=None, error=DatasetError):
        def block():
            with removed_on_error(path, unless=lambda: also is not None):
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


def test_an_existing_file_stays(refused, tmp_path):
    (tmp_path / "mine").mkdir()
    refused(tmp_path / "mine/deep/file")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]
    (tmp_path / "mine/file").touch()
    refused(tmp_path / "mine/file")
    assert (tmp_path / "mine/file").is_file()


def test_results_keep_the_file(refused, tmp_path):
    refused(tmp_path / "deep/file", also=tmp_path / "deep/result")
    assert (tmp_path / "deep/file").is_file()


def test_an_interruption_keeps_the_file(refused, tmp_path):
    refused(tmp_path / "deep/file", error=KeyboardInterrupt)
    assert (tmp_path / "deep/file").is_file()
