"""The mailbox: newest wins, one slot a camera, rate limit, close."""

import threading
import time

from lvad_perception.node.mailbox import Mailbox


class Clock:
    """Seconds that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_newest_frame_replaces_the_one_that_nobody_took():
    mailbox = Mailbox[str]({"front": 0.0})
    assert [mailbox.put("front", text) for text in ("first", "second", "third")] == [False, True, True]
    assert [frame.message for frame in mailbox.take()] == ["third"]
    assert mailbox.put("front", "fourth") is False


def test_take_returns_one_frame_of_each_camera_that_has_one():
    mailbox = Mailbox[int]({"front": 0.0, "left": 0.0, "dead": 0.0})
    mailbox.put("left", 1)
    mailbox.put("front", 2)
    mailbox.put("front", 3)
    assert {(frame.camera, frame.message) for frame in mailbox.take()} == {("left", 1), ("front", 3)}


def test_frame_carries_the_time_of_reception():
    clock = Clock()
    mailbox = Mailbox[str]({"front": 0.0}, clock=clock)
    mailbox.put("front", "frame")
    clock.now += 5.0
    assert mailbox.take()[0].received_s == 100.0


def test_take_waits_for_a_frame_from_another_thread():
    mailbox = Mailbox[str]({"front": 0.0})
    threading.Timer(0.05, mailbox.put, ("front", "late")).start()
    assert [frame.message for frame in mailbox.take()] == ["late"]


def test_close_wakes_the_waiting_thread_and_hides_what_is_left():
    mailbox = Mailbox[str]({"front": 0.0})
    taken: list[object] = []
    waiting = threading.Thread(target=lambda: taken.append(mailbox.take()))
    waiting.start()
    mailbox.close()
    waiting.join(5.0)
    assert taken == [[]]
    mailbox.put("front", "too late")
    assert mailbox.take() == []


def test_rate_limit_keeps_the_newest_frame_until_it_is_due():
    mailbox = Mailbox[int]({"front": 0.15})
    mailbox.put("front", 0)
    assert [frame.message for frame in mailbox.take()] == [0]
    started_s = time.monotonic()
    mailbox.put("front", 1)
    threading.Timer(0.05, mailbox.put, ("front", 2)).start()
    assert [frame.message for frame in mailbox.take()] == [2]
    assert 0.14 < time.monotonic() - started_s < 2.0


def test_rate_limit_of_one_camera_does_not_hold_back_another():
    clock = Clock()
    mailbox = Mailbox[str]({"slow": 10.0, "fast": 0.0}, clock=clock)
    for _ in range(2):
        mailbox.put("slow", "slow")
        mailbox.put("fast", "fast")
        taken = {frame.camera for frame in mailbox.take()}
    assert taken == {"fast"}
    clock.now += 10.0
    assert {frame.camera for frame in mailbox.take()} == {"slow"}
