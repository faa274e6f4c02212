"""Pseudo labels by several processes, interrupted, killed and resumed: always the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lvad_training.pseudo import journal
from lvad_training.recipe.schema import PseudoConfig

from .painted_teachers import CONFIG, FRAMES, Stop, content, make_teachers, run_processes, write


class TestInterruption:
    def test_any_number_of_processes_gives_the_same_bytes(self, painted_split, finished_labels, tmp_path):
        reports = run_processes(painted_split, tmp_path / "p", 3, config=PseudoConfig())
        assert reports == [finished_labels[3]] * 3
        assert content(tmp_path / "p") == content(finished_labels[2])

    @pytest.mark.parametrize("after", [0, 3, 20, 44])
    def test_an_interrupted_run_resumes_to_the_same_bytes(self, painted_split, finished_labels, tmp_path, after):
        def stop():
            raise Stop

        folder = tmp_path / "p"
        with pytest.raises(Stop):
            write(
                painted_split,
                folder,
                config=PseudoConfig(),
                teachers=make_teachers(painted_split, stop_after=after, stop=stop),
            )
        assert not (folder / "pseudo.json").exists()
        for path in (folder / "unfinished").glob("*.jsonl"):
            path.write_bytes(path.read_bytes() + b'{"frame":"frame-0')  # as if a line was cut off
        asked = []
        teachers = make_teachers(painted_split, asked=asked)
        report = write(painted_split, folder, config=PseudoConfig(), teachers=teachers, resume=True)
        total = sum(len(teacher.frames) for teacher in teachers) + len(teachers[0].trained_on)
        assert len(asked) == total - after
        assert report == finished_labels[3]
        assert content(folder) == content(finished_labels[2])

    def test_several_processes_resume_the_run_of_one(self, painted_split, finished_labels, tmp_path):
        def stop():
            raise Stop

        with pytest.raises(Stop):
            write(painted_split, tmp_path / "p", teachers=make_teachers(painted_split, stop_after=15, stop=stop))
        run_processes(painted_split, tmp_path / "p", 2, config=CONFIG, resume=True)
        assert content(tmp_path / "p") == content(finished_labels[0])

    def test_a_process_that_was_killed(self, painted_split, finished_labels, tmp_path):
        code = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from lvad_perception.datasets.bdd100k import open_split\n"
            "from lvad_training.pseudo import journal\n"
            "from test.training import painted_teachers as here\n"
            "journal.WRITE_EVERY_S = 0\n"
            "split = open_split(Path(sys.argv[1]), 'train')\n"
            "kill = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
            "here.write(split, Path(sys.argv[2]), teachers=here.make_teachers(split, stop_after=17, stop=kill))\n"
        )
        root = Path(__file__).resolve().parents[2]
        command = [sys.executable, "-c", code, str(painted_split.root), str(tmp_path / "p")]
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        killed = subprocess.run(command, cwd=root, env=environment, capture_output=True, timeout=200, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        asked = []
        write(painted_split, tmp_path / "p", teachers=make_teachers(painted_split, asked=asked), resume=True)
        assert len(asked) == 3 * FRAMES - 17
        assert content(tmp_path / "p") == content(finished_labels[0])

    @pytest.mark.parametrize("every_s", [0, 60])
    def test_recorded_frames_survive_a_power_cut(self, painted_split, tmp_path, monkeypatch, every_s):
        """Whenever lines are synced to disk, their masks and directory entries have been synced before."""
        monkeypatch.setattr(journal, "WRITE_EVERY_S", every_s)
        on_disk, names, lines = set(), set(), []
        fsync = os.fsync

        def keep(descriptor):
            fsync(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if path.is_dir():
                names.update(found for found in path.iterdir() if found.is_file())
            on_disk.add(path.stat().st_ino)
            if path.name.startswith("semantic.") and path.suffix == ".jsonl":
                lines.append(len(path.read_text().splitlines()))
                for line in path.read_text().splitlines():
                    mask = tmp_path / f"p/labels/sem_seg/masks/train/{json.loads(line)['frame']}.png"
                    assert mask.stat().st_ino in on_disk
                    assert mask in names

        monkeypatch.setattr(os, "fsync", keep)
        write(painted_split, tmp_path / "p", teachers=make_teachers(painted_split))
        assert lines == (list(range(1, FRAMES + 1)) if every_s == 0 else [FRAMES])
        last = [*(tmp_path / "p/labels").rglob("*.png"), tmp_path / "p/labels/det_20/det_train.json"]
        assert all(path.stat().st_ino in on_disk and path in names for path in [*last, tmp_path / "p/pseudo.json"])

    def test_finished_labels_are_not_made_again(self, painted_split, finished_labels, tmp_path):
        folder = tmp_path / "p"
        shutil.copytree(finished_labels[0], folder, symlinks=True)
        (folder / "unfinished").mkdir()  # killed while this was removed
        before = content(folder)
        asked = []
        assert (
            write(painted_split, folder, teachers=make_teachers(painted_split, asked=asked), resume=True)
            == finished_labels[1]
        )
        assert asked == []
        assert content(folder) == before
        assert not (folder / "unfinished").exists()

    def test_without_resume_old_labels_are_removed(self, painted_split, finished_labels, tmp_path):
        folder = tmp_path / "p"
        shutil.copytree(finished_labels[0], folder, symlinks=True)
        (folder / "stage.json").write_text("{}")
        write(painted_split, folder, teachers=make_teachers(painted_split, frames=[2], tasks=["semantic"]))
        masks = [path.name for path in folder.rglob("*.png") if "images" not in path.parts]
        assert masks == ["frame-002.png"]
        assert not (folder / "labels/det_20").exists()
        assert (folder / "stage.json").read_text() == "{}"
        assert len(list(painted_split.root.glob("images/100k/train/*.png"))) == FRAMES

    def test_an_interrupted_removal_is_completed(self, painted_split, finished_labels, tmp_path):
        folder = tmp_path / "p"
        shutil.copytree(finished_labels[0], folder, symlinks=True)
        (folder / "unfinished").mkdir()
        (folder / "unfinished/settings.json").write_text("{}")
        write(painted_split, folder, teachers=make_teachers(painted_split, frames=[2], tasks=["semantic"]), resume=True)
        assert not (folder / "labels/det_20").exists()
