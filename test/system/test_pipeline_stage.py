"""The stage that finishes one frame while the next is in work."""

import threading

import pytest

from lvad_perception.node.pipeline_stage import PipelineStage

PATIENCE_S = 20.0


@pytest.fixture
def pipeline_stage():
    pipeline_stage = PipelineStage("test")
    yield pipeline_stage
    pipeline_stage.close()


def test_the_caller_goes_on_while_the_work_is_done(pipeline_stage):
    went_on, done = threading.Event(), threading.Event()
    pipeline_stage.put(lambda: went_on.wait(PATIENCE_S) and done.set())
    assert not done.is_set()
    went_on.set()
    assert done.wait(PATIENCE_S)


def test_a_second_piece_of_work_waits_for_the_first(pipeline_stage):
    release, order = threading.Event(), []
    pipeline_stage.put(lambda: release.wait(PATIENCE_S) and order.append("first"))
    waiting = threading.Thread(target=lambda: (pipeline_stage.put(lambda: order.append("second")), order.append("put")))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    assert order == []
    release.set()
    waiting.join(PATIENCE_S)
    pipeline_stage.close()
    assert order[0] == "first"
    assert set(order) == {"first", "second", "put"}


def test_all_work_is_done_by_one_thread_in_order(pipeline_stage):
    seen = []
    for number in range(20):
        pipeline_stage.put(lambda number=number: seen.append((number, threading.current_thread().name)))
    pipeline_stage.close()
    assert [number for number, _ in seen] == list(range(20))
    assert {name for _, name in seen} == {"test_0"}
    assert threading.current_thread().name != "test_0"


def test_close_waits_for_the_last_work_and_may_be_called_again(pipeline_stage):
    release, done = threading.Event(), []
    pipeline_stage.put(lambda: release.wait(PATIENCE_S) and done.append(True))
    threading.Timer(0.05, release.set).start()
    pipeline_stage.close()
    assert done == [True]
    pipeline_stage.close()


def test_what_the_work_raised_is_raised_at_the_next_handover(pipeline_stage):
    pipeline_stage.put(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        pipeline_stage.put(lambda: None)
    pipeline_stage.put(lambda: None)  # it works on
