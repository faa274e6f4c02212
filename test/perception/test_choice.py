"""The runtime that "auto" chooses and caches, with fake runtimes and a fake clock."""

import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from lvad_perception.engines import choice
from lvad_perception.errors import EngineError, ModelFileError


class Clock:
    """Advances only when an engine works."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def offer(monkeypatch, make_engine, tmp_path):
    """``offer(openvino=…)`` replaces both runtimes and returns a function that chooses between them.

    The installed packages are ``site/``, what is remembered is in ``cache/``, the model file is ``m.onnx``.
    """
    model, site, cache = tmp_path / "m.onnx", tmp_path / "site", tmp_path / "cache"
    model.write_bytes(b"a model")
    for package in ("onnxruntime", "openvino"):
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").touch()
        (site / f"{package}-1.0.dist-info").mkdir()

    def offer(
        *, openvino_s=0.5, reference_precision="fp32", rival_precision="fp32", spoil=None, broken=None, there=True
    ):
        clock, said, engines, opened = Clock(), [], {}, []

        class Timed(make_engine):
            cost_s = 1.0

            def infer(self, images):
                clock.now_s += self.cost_s
                return super().infer(images)

        def onnx(path, *, threads):
            opened.append("onnxruntime")
            engine = engines["onnxruntime"] = Timed()
            engine.description, engine.precision = "ONNX Runtime", reference_precision
            return engine

        def openvino(path, *, threads, precision):
            opened.append("openvino")
            if broken:
                raise broken
            engine = engines["openvino"] = Timed()
            engine.description, engine.precision, engine.cost_s = "OpenVINO", rival_precision, openvino_s
            if spoil:
                right = engine.infer
                engine.infer = lambda images: spoil(right(images))
            return engine

        monkeypatch.setattr(choice, "OnnxEngine", onnx)
        monkeypatch.setattr(choice, "OpenVinoEngine", openvino)
        specs = {name: SimpleNamespace(origin=str(site / name / "__init__.py")) for name in ("onnxruntime", "openvino")}
        monkeypatch.setattr(choice, "find_spec", lambda name: specs[name] if there else None)

        def choose(precision=None, *, threads=1, cache_dir=cache):
            engines.clear()
            opened.clear()
            engine = choice.fastest(
                model, threads=threads, precision=precision, log=said.append, clock=clock, cache_dir=cache_dir
            )
            others = [other for other in engines.values() if other is not engine]
            assert not engine.closed
            assert all(other.closed for other in others)
            return engine.description, said

        choose.engines, choose.opened = engines, opened
        return choose

    return offer


def spoilt(outputs):
    """Masks of which a tenth is wrong."""
    outputs.semantic.reshape(-1)[::10] += 1
    return outputs


def test_the_faster_one_is_chosen_and_the_reason_logged(offer):
    name, said = offer(openvino_s=0.5)()
    assert name == "OpenVINO"
    assert said[0].startswith("runtime: OpenVINO; medians of 7: ONNX Runtime 1000.0 ms, OpenVINO 500.0 ms, ")
    assert said[0].endswith("confidence within 0/255")


@pytest.mark.parametrize("openvino_s", [0.96, 1.0, 2.0])
def test_a_near_tie_chooses_onnx_runtime(offer, openvino_s):
    assert offer(openvino_s=openvino_s)()[0] == "ONNX Runtime"


def test_one_that_differs_is_not_chosen_however_fast(offer):
    name, said = offer(openvino_s=0.01, spoil=spoilt)()
    assert name == "ONNX Runtime"
    assert "since OpenVINO differs from ONNX Runtime (" in said[0]
    assert "89.990 % of mask pixels" in said[0]


def test_one_that_does_not_load_is_reported_and_not_chosen(offer):
    name, said = offer(broken=ModelFileError("m.onnx cannot be loaded"))()
    assert name == "ONNX Runtime"
    assert said == ["runtime: ONNX Runtime, since OpenVINO does not run it: m.onnx cannot be loaded"]


def test_without_a_choice_there_is_no_trial(offer):
    choose = offer(there=False)
    assert choose() == ("ONNX Runtime", [])
    assert choose.engines["onnxruntime"].batches == []


class TestLowerPrecision:
    def test_it_leaves_the_runtime_that_offers_it(self, offer):
        name, said = offer(openvino_s=5.0, rival_precision="bf16")("bf16")
        assert name == "OpenVINO"
        assert said[0].startswith("runtime: OpenVINO, which alone computes in bf16 (")

    def test_beyond_its_tolerance_it_is_refused(self, offer):
        choose = offer(rival_precision="bf16", spoil=spoilt)
        with pytest.raises(EngineError, match=r"OpenVINO differs .*, more than bf16 may; choose the runtime openvino"):
            choose("bf16")
        assert all(engine.closed for engine in choose.engines.values())

    def test_without_openvino_there_is_none(self, offer):
        choose = offer(there=False)
        with pytest.raises(EngineError, match=r"no runtime here computes .*m\.onnx in bf16; pip install openvino, or"):
            choose("bf16")
        assert choose.engines["onnxruntime"].closed

    def test_a_quantised_file_is_chosen_for_like_any_other(self, offer):
        assert offer(reference_precision="int8", rival_precision="int8")("int8")[0] == "OpenVINO"


class TestCache:
    @pytest.mark.parametrize(("openvino_s", "name"), [(0.5, "openvino"), (2.0, "onnxruntime")])
    def test_the_second_start_opens_the_cached_choice_without_measuring(self, offer, openvino_s, name, tmp_path):
        choose = offer(openvino_s=openvino_s)
        first, _ = choose()
        second, said = choose()
        assert second == first
        assert choose.opened == [name]
        assert choose.engines[name].batches == []
        (kept,) = (tmp_path / "cache" / "runtimes").iterdir()
        assert said[1] == f"{said[0]}; measured at an earlier start and cached in {kept}"

    @pytest.mark.parametrize(
        "change",
        [
            lambda folder, _: (folder / "m.onnx").write_bytes(b"another model"),
            lambda folder, _: (folder / "site/openvino-1.0.dist-info").rename(folder / "site/openvino-2.0.dist-info"),
            lambda folder, _: (folder / "site/onnxruntime_gpu-1.0.dist-info").mkdir(),
            lambda folder, _: os.utime(folder / "site/onnxruntime/__init__.py", (1, 1)),
            lambda _, patch: patch.setattr(choice, "__version__", "99.0.0"),
            lambda _, patch: patch.setattr(choice, "cpu_identity", lambda: "another CPU"),
        ],
        ids=["model", "openvino", "another distribution", "source build", "own version", "CPU"],
    )
    def test_after_a_change_it_is_measured_again(self, offer, monkeypatch, tmp_path, change):
        choose = offer()
        choose()
        change(tmp_path, monkeypatch)
        choose()
        assert choose.opened == ["onnxruntime", "openvino"]

    def test_threads_and_precisions_are_measured_apart(self, offer):
        choose = offer(reference_precision="int8", rival_precision="int8")
        for arguments in ({}, {"threads": 2}, {"precision": "int8"}):
            choose(**arguments)
            assert choose.opened == ["onnxruntime", "openvino"]
            choose(**arguments)
            assert choose.opened == ["openvino"]

    @pytest.mark.parametrize(
        "text",
        ["", '{"runtime": "openv', "[]", '{"runtime": "other", "reason": ""}', '{"runtime": "openvino"}', "\xff"],
    )
    def test_a_damaged_file_is_replaced_after_another_measurement(self, offer, tmp_path, text):
        choose = offer()
        choose()
        (kept,) = (tmp_path / "cache" / "runtimes").iterdir()
        kept.write_text(text, encoding="latin-1")
        choose()
        assert choose.opened == ["onnxruntime", "openvino"]
        choose()
        assert choose.opened == ["openvino"]

    @pytest.mark.parametrize("place", ["a file", "no/folder"])
    def test_without_a_writable_cache_every_start_measures(self, offer, tmp_path, place):
        (tmp_path / "a file").touch()
        (tmp_path / "no").symlink_to("/proc/self/fdinfo")  # where even root makes no folder
        choose = offer()
        for _ in range(2):
            assert choose(cache_dir=tmp_path / place)[0] == "OpenVINO"
            assert choose.opened == ["onnxruntime", "openvino"]

    def test_a_cached_runtime_that_no_longer_loads_is_not_used(self, offer):
        offer()()
        name, said = offer(broken=EngineError("OpenVINO failed"))()
        assert name == "ONNX Runtime"
        assert said == ["runtime: ONNX Runtime, since OpenVINO does not run it: OpenVINO failed"]

    def test_a_failure_to_load_is_not_cached(self, offer):
        offer(broken=EngineError("OpenVINO failed"))()
        choose = offer()
        assert choose()[0] == "OpenVINO"
        assert choose.opened == ["onnxruntime", "openvino"]

    def test_starts_at_the_same_time_leave_one_whole_file(self, tmp_path):
        file = tmp_path / "runtimes" / "m.json"
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: choice._write_cache([file], "openvino", f"{number} " * 5000), range(64)))
        assert choice._read_cache([file])[0] == "openvino"
        assert list(file.parent.iterdir()) == [file]

    def test_the_runtime_reports_a_missing_file(self, tmp_path):
        with pytest.raises(ModelFileError, match=r"absent\.onnx cannot be loaded"):
            choice.fastest(tmp_path / "absent.onnx", threads=1, precision=None, log=print, cache_dir=tmp_path)


def test_trial_images_are_smooth_and_always_the_same(make_manifest):
    first, second = (choice.trial_images(make_manifest(network_hw=(100, 130)), 2) for _ in range(2))
    assert [image.shape for image in first] == [(2, 100, 130, 3)] * 2
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    assert np.abs(np.diff(first[0].astype(int), axis=1)).max() <= 8
    assert first[0].std() > 30
