"""When the next frames are taken, by a clock that is set by hand."""

import threading
import time

import pytest

from lvad_perception.node.pacing import Pace

PATIENCE_S = 20.0


@pytest.fixture
def pace(clock):
    return Pace(clock=clock)


def run(pace, clock, *, preparing_s, engine_s):
    """One batch that is alone in the engine."""
    taken_s = clock.now_s
    clock.now_s += preparing_s
    pace.began(taken_s=taken_s)
    clock.now_s += engine_s
    pace.ended()


def begin(pace, clock, *, preparing_s):
    taken_s = clock.now_s
    clock.now_s += preparing_s
    pace.began(taken_s=taken_s)


def test_an_idle_engine_is_given_something_at_once(pace, clock):
    assert pace.due_s == float("-inf")
    run(pace, clock, preparing_s=1, engine_s=10)
    assert pace.due_s == float("-inf")
    pace.wait()


def test_before_the_first_result_nothing_is_known_and_it_is_waited_for(pace, clock):
    begin(pace, clock, preparing_s=1)
    assert pace.due_s == float("inf")


def test_frames_are_taken_so_early_that_they_are_ready_when_the_engine_is_free(pace, clock):
    run(pace, clock, preparing_s=3, engine_s=10)
    begin(pace, clock, preparing_s=3)
    assert pace.due_s == clock.now_s + 10 - 3


def test_an_engine_faster_than_the_preparation_never_waits(pace, clock):
    run(pace, clock, preparing_s=10, engine_s=3)
    begin(pace, clock, preparing_s=10)
    assert pace.due_s < clock.now_s
    pace.wait()


def test_an_engine_that_computes_in_line_never_waits(pace, clock):
    run(pace, clock, preparing_s=3 + 20, engine_s=0)  # begin() returned when it had run
    begin(pace, clock, preparing_s=3 + 20)
    pace.wait()


def test_what_counts_is_the_median_of_the_last(pace, clock):
    for engine_s in (*[70] * 15, *[10] * 14, 500):
        run(pace, clock, preparing_s=3, engine_s=engine_s)
    begin(pace, clock, preparing_s=100)
    assert pace.due_s == clock.now_s + 10 - 3


def test_a_batch_that_waited_for_another_is_not_counted_slower(pace, clock):
    run(pace, clock, preparing_s=3, engine_s=10)
    begin(pace, clock, preparing_s=3)
    clock.now_s += 5
    begin(pace, clock, preparing_s=3)  # 2 s before the engine gets free
    assert pace.due_s == clock.now_s - 8 + 2 * 10 - 3  # both are still to be computed
    clock.now_s += 2
    pace.ended()
    assert pace.due_s == clock.now_s + 10 - 3
    clock.now_s += 10
    pace.ended()
    begin(pace, clock, preparing_s=3)
    assert pace.due_s == clock.now_s + 10 - 3


def test_the_engines_time_of_a_batch_begins_when_the_one_before_is_through(pace, clock):
    begin(pace, clock, preparing_s=3)
    begin(pace, clock, preparing_s=3)
    clock.now_s += 7
    pace.ended()  # 10 s after it was begun
    clock.now_s += 10
    pace.ended()  # 17 s after it was begun
    begin(pace, clock, preparing_s=3)
    assert pace.due_s == clock.now_s + 10 - 3


def test_the_wait_ends_with_the_result():
    pace = Pace()
    pace.began(taken_s=time.monotonic())
    waiting = threading.Thread(target=pace.wait)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    pace.ended()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()


def test_the_wait_ends_when_the_time_has_come():
    pace = Pace()
    pace.began(taken_s=time.monotonic())
    time.sleep(0.05)
    pace.ended()
    pace.began(taken_s=time.monotonic())
    began_s = time.monotonic()
    pace.wait()  # nobody says that the second has ended
    assert 0.02 < time.monotonic() - began_s < PATIENCE_S
