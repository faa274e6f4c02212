"""The stage that finishes one frame while the next is in work."""

import threading

import pytest

from lvad_perception.node.handover import Handover

PATIENCE_S = 20.0


@pytest.fixture
def handover():
    handover = Handover("test")
    yield handover
    handover.close()


def test_the_caller_goes_on_while_the_work_is_done(handover):
    went_on, done = threading.Event(), threading.Event()
    handover.put(lambda: went_on.wait(PATIENCE_S) and done.set())
    assert not done.is_set()
    went_on.set()
    assert done.wait(PATIENCE_S)


def test_a_second_piece_of_work_waits_for_the_first(handover):
    release, order = threading.Event(), []
    handover.put(lambda: release.wait(PATIENCE_S) and order.append("first"))
    waiting = threading.Thread(target=lambda: (handover.put(lambda: order.append("second")), order.append("put")))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    assert order == []
    release.set()
    waiting.join(PATIENCE_S)
    handover.close()
    assert order[0] == "first"
    assert set(order) == {"first", "second", "put"}


def test_all_work_is_done_by_one_thread_in_order(handover):
    seen = []
    for number in range(20):
        handover.put(lambda number=number: seen.append((number, threading.current_thread().name)))
    handover.close()
    assert [number for number, _ in seen] == list(range(20))
    assert {name for _, name in seen} == {"test_0"}
    assert threading.current_thread().name != "test_0"


def test_close_waits_for_the_last_work_and_may_be_called_again(handover):
    release, done = threading.Event(), []
    handover.put(lambda: release.wait(PATIENCE_S) and done.append(True))
    threading.Timer(0.05, release.set).start()
    handover.close()
    assert done == [True]
    handover.close()


def test_what_the_work_raised_is_raised_at_the_next_handover(handover):
    handover.put(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        handover.put(lambda: None)
    handover.put(lambda: None)  # it works on
