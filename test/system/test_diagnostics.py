"""From reports to diagnostic levels, sentences and values."""

import pytest

from lvad_perception.node.health import CameraHealth

OK, WARN, ERROR = b"\0", b"\1", b"\2"


@pytest.fixture
def health(clock):
    return CameraHealth(clock=clock)


@pytest.fixture
def judge(ros_environment, health):
    """A function that judges the camera now: (level, sentence)."""
    from lvad_perception.node import diagnostics

    def judge(state="working", *, min_interval_s=0.0):
        verdict = diagnostics.judge(
            health.report(),
            diagnostics.CameraState(state),
            topic="/front/image_raw",
            why_silent=lambda: "nobody publishes it",
            stale_after_s=2.0,
            min_interval_s=min_interval_s,
        )
        return verdict.level, verdict.sentence

    return judge


def work(health, clock, *, frames=10, age_s=0.05):
    """A second in which frames arrive and their results are published."""
    for _ in range(frames):
        clock.now_s += 1 / frames
        health.count_received(replaced=False, age_s=age_s)
        health.count_published(received_s=clock.now_s, age_s=age_s, parts_ms={"engine": 30.0})


def test_a_working_camera_is_fine(judge, health, clock):
    work(health, clock)
    assert judge() == (OK, "10.0 frames a second")


def test_a_camera_that_should_not_work_is_fine_however_silent(judge, clock):
    clock.now_s += 100
    assert judge("inactive") == (OK, "not active")


def test_a_dead_worker_is_an_error(judge, health, clock):
    work(health, clock)
    assert judge("stopped") == (ERROR, "the worker has stopped; deactivate and activate again")


@pytest.mark.parametrize("state", ["working", "resting"])
def test_a_silent_camera_is_an_error_with_the_reason(judge, health, clock, state):
    work(health, clock)
    clock.now_s += 1.9
    assert judge(state)[0] == OK
    clock.now_s += 1.1
    assert judge(state) == (ERROR, "no image on /front/image_raw for 3 s: nobody publishes it")


def receive(health, clock, *, seconds, wanted=True):
    """Frames arrive and nothing is done with them."""
    for _ in range(seconds):
        clock.now_s += 1
        health.count_received(replaced=True, age_s=0.05, wanted=wanted)


def test_a_model_that_hangs_is_an_error_although_images_come(judge, health, clock):
    receive(health, clock, seconds=10)
    assert judge()[0] == OK
    receive(health, clock, seconds=2)
    level, sentence = judge()
    assert (level, sentence[:36]) == (ERROR, "no result for 11 s while images come")
    assert judge(min_interval_s=5.0)[0] == OK  # a frame may wait for its turn
    assert judge("resting")[0] == OK
    work(health, clock)
    assert judge()[0] == OK


def test_frames_that_nobody_wants_wait_for_nothing(judge, health, clock):
    receive(health, clock, seconds=100, wanted=False)
    assert judge()[0] == OK
    assert health.report().waiting_s is None


def test_old_frames_are_an_error_even_if_they_keep_coming(judge, health, clock):
    work(health, clock, age_s=3.0)
    level, sentence = judge()
    assert level == ERROR
    assert sentence.startswith("the newest image on /front/image_raw is 3.0 s old by its stamp; check the camera's")


def test_frames_from_the_future_are_a_warning(judge, health, clock):
    work(health, clock, age_s=-5.0)
    assert judge() == (WARN, "the newest image on /front/image_raw is stamped 5.0 s in the future; set the clocks")


@pytest.mark.parametrize("age_s", [1e8, -1e8])
def test_stamps_of_an_old_recording_say_nothing_about_its_age(judge, health, clock, age_s):
    work(health, clock, age_s=age_s)
    assert judge()[0] == OK


def test_some_bad_frames_are_a_warning_and_only_bad_ones_an_error(judge, health, clock):
    work(health, clock)
    for _ in range(2):
        health.count_skipped("truncated", corrupt=True)
    assert judge() == (WARN, "2 frames skipped: truncated")
    health.count_received(replaced=False)
    health.count_skipped("out of memory")
    assert judge() == (ERROR, "1 frame skipped and none processed: out of memory")
    work(health, clock)
    assert judge()[0] == OK


def test_a_jump_of_the_stamps_is_a_warning_once(judge, health, clock):
    work(health, clock)
    health.count_jump()
    level, sentence = judge()
    assert level == WARN
    assert "jumped back; a bag began again or a clock was set" in sentence
    work(health, clock)
    assert judge()[0] == OK


def test_a_camera_without_listeners_is_fine(judge, health, clock):
    health.count_received(replaced=False)
    assert judge("resting") == (OK, "nobody subscribes to the results")


def test_a_camera_shows_its_numbers(ros_environment, health, clock):
    from diagnostic_updater import DiagnosticStatusWrapper

    from lvad_perception.node.diagnostics import Verdict, fill_camera

    work(health, clock)
    health.count_skipped("truncated", corrupt=True)
    status = fill_camera(DiagnosticStatusWrapper(), health.report(), Verdict(WARN, "1 frames skipped"))
    values = {value.key: value.value for value in status.values}
    assert (status.level, status.message) == (WARN, "1 frames skipped")
    assert values == {
        "input rate [Hz]": "10.0",
        "output rate [Hz]": "10.0",
        "newest frame received before [s]": "0.00",
        "newest frame, age by header stamp [s]": "0.05",
        "frames received": "10",
        "frames replaced by a newer one": "0",
        "frames corrupt": "1",
        "frames failed": "0",
        "stamps jumped back": "0",
        "last problem": "truncated",
        "latency from header stamp, median [ms]": "50.0",
        "latency from header stamp, 99 % [ms]": "50.0",
        "latency from reception, median [ms]": "0.0",
        "latency from reception, 99 % [ms]": "0.0",
        "of which engine, median [ms]": "30.0",
        "of which engine, 99 % [ms]": "30.0",
    }


def test_the_node_is_as_bad_as_its_worst_camera_and_says_what_runs(ros_environment, make_manifest):
    from diagnostic_updater import DiagnosticStatusWrapper

    from lvad_perception.node.diagnostics import EngineState, Verdict, fill_node

    def fill(verdicts, engine=None):
        engine = engine or EngineState("ONNX Runtime 1, CPU", "fp32")
        manifest = make_manifest(preset="edge")
        return fill_node(DiagnosticStatusWrapper(), verdicts, manifest=manifest, engine=engine, model="m.onnx")

    fine, bad, worst = Verdict(OK, "fine"), Verdict(WARN, "1 frames skipped"), Verdict(ERROR, "no image")
    status = fill({"front": fine, "rear": worst, "left": bad})
    assert status.level == ERROR
    assert status.message == "1 of 3 cameras fine; rear: no image; left: 1 frames skipped"
    values = {value.key: value.value for value in status.values}
    assert (values["architecture"], values["engine"], values["model"]) == ("edge", "ONNX Runtime 1, CPU", "m.onnx")
    assert values["network size"] == "64x48, batch 2"
    assert values["precision"] == "fp32"
    assert "memory of the engine's device [MB]" not in values
    on_gpu = fill({}, EngineState("TensorRT 10.3, Orin", "fp16", 123_400_000))
    assert {"memory of the engine's device [MB]": "123"}.items() <= {v.key: v.value for v in on_gpu.values}.items()
    assert 1 < float(values["memory of the process [MB]"]) < 1e6
    assert fill({"front": fine, "left": bad}).level == WARN
    assert (fill({"front": fine}).level, fill({"front": fine}).message) == (OK, "all cameras fine")
