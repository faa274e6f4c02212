"""The mailbox: newest wins, one slot a camera, rate limit, close."""

import threading
import time

from lvad_perception.node.mailbox import Mailbox


def test_newest_frame_replaces_the_one_that_nobody_took():
    mailbox = Mailbox[str]({"front": 0.0})
    assert [mailbox.put("front", text) for text in ("first", "second", "third")] == [False, True, True]
    assert [frame.message for frame in mailbox.take(8)] == ["third"]
    assert mailbox.put("front", "fourth") is False


def test_take_returns_one_frame_of_each_camera_that_has_one():
    mailbox = Mailbox[int]({"front": 0.0, "left": 0.0, "dead": 0.0})
    mailbox.put("left", 1)
    mailbox.put("front", 2)
    mailbox.put("front", 3)
    assert {(frame.camera, frame.message) for frame in mailbox.take(8)} == {("left", 1), ("front", 3)}


def test_frame_carries_the_time_of_reception(clock):
    mailbox = Mailbox[str]({"front": 0.0}, clock=clock)
    mailbox.put("front", "frame")
    clock.now_s += 5.0
    assert mailbox.take(8)[0].received_s == 100.0


def test_take_waits_for_a_frame_from_another_thread():
    mailbox = Mailbox[str]({"front": 0.0})
    threading.Timer(0.05, mailbox.put, ("front", "late")).start()
    assert [frame.message for frame in mailbox.take(8)] == ["late"]


def test_close_wakes_the_waiting_thread_and_hides_what_is_left():
    mailbox = Mailbox[str]({"front": 0.0})
    taken: list[object] = []
    waiting = threading.Thread(target=lambda: taken.append(mailbox.take(8)))
    waiting.start()
    mailbox.close()
    waiting.join(5.0)
    assert taken == [[]]
    mailbox.put("front", "too late")
    assert mailbox.take(8) == []


def test_rate_limit_keeps_the_newest_frame_until_it_is_due():
    mailbox = Mailbox[int]({"front": 0.15})
    mailbox.put("front", 0)
    assert [frame.message for frame in mailbox.take(8)] == [0]
    started_s = time.monotonic()
    mailbox.put("front", 1)
    threading.Timer(0.05, mailbox.put, ("front", 2)).start()
    assert [frame.message for frame in mailbox.take(8)] == [2]
    assert 0.14 < time.monotonic() - started_s < 2.0


def test_rate_limit_of_one_camera_does_not_hold_back_another(clock):
    mailbox = Mailbox[str]({"slow": 10.0, "fast": 0.0}, clock=clock)
    for _ in range(2):
        mailbox.put("slow", "slow")
        mailbox.put("fast", "fast")
        taken = {frame.camera for frame in mailbox.take(8)}
    assert taken == {"fast"}
    clock.now_s += 10.0
    assert {frame.camera for frame in mailbox.take(8)} == {"slow"}


def test_no_more_than_asked_for_and_the_camera_that_waited_longest_first():
    mailbox = Mailbox[str]({"front": 0.0, "left": 0.0, "rear": 0.0})
    served = []
    for _ in range(6):
        for camera in ("front", "left", "rear"):
            mailbox.put(camera, "newest")
        served.append([frame.camera for frame in mailbox.take(2)])
    assert served[:3] == [["front", "left"], ["rear", "front"], ["left", "rear"]]
    assert served[3:] == served[:3]


def test_a_frame_that_was_not_asked_for_is_still_replaced_by_a_newer_one():
    mailbox = Mailbox[int]({"front": 0.0, "rear": 0.0})
    mailbox.put("front", 1)
    mailbox.put("rear", 1)
    mailbox.take(1)
    assert mailbox.put("rear", 2) is True
    assert [frame.message for frame in mailbox.take(1)] == [2]


def test_a_higher_rate_takes_effect_on_the_frame_that_waits():
    mailbox = Mailbox[int]({"front": 60.0})
    mailbox.put("front", 0)
    mailbox.take(1)
    mailbox.put("front", 1)
    threading.Timer(0.05, mailbox.limit_rate, ("front", 0.0)).start()
    assert [frame.message for frame in mailbox.take(1)] == [1]


def test_a_lower_rate_counts_from_the_last_frame(clock):
    mailbox = Mailbox[int]({"front": 0.0, "other": 0.0}, clock=clock)
    mailbox.put("front", 0)
    mailbox.take(1)
    mailbox.limit_rate("front", 10.0)
    clock.now_s += 9.0
    mailbox.put("front", 1)
    mailbox.put("other", 0)
    assert [frame.camera for frame in mailbox.take(2)] == ["other"]
    clock.now_s += 1.0
    assert [frame.camera for frame in mailbox.take(2)] == ["front"]


def test_a_queue_loses_nothing_keeps_the_order_and_holds_back_whoever_fills_it():
    mailbox = Mailbox[int]({"front": 0.0}, queue_depth=3)
    replaced: list[bool] = []
    filling = threading.Thread(target=lambda: replaced.extend(mailbox.put("front", number) for number in range(20)))
    filling.start()
    time.sleep(0.1)
    assert len(replaced) == 3  # the fourth waits
    received: list[int] = []
    while len(received) < 20:
        received += [frame.message for frame in mailbox.take(2)]
    filling.join(5.0)
    assert received == list(range(20))
    assert not any(replaced)


def test_a_full_queue_of_one_camera_does_not_hold_back_another():
    mailbox = Mailbox[int]({"front": 0.0, "rear": 0.0}, queue_depth=1)
    mailbox.put("front", 0)
    waiting = threading.Thread(target=mailbox.put, args=("front", 1))
    waiting.start()
    mailbox.put("rear", 0)
    assert {frame.camera for frame in mailbox.take(2)} == {"front", "rear"}
    waiting.join(5.0)
    assert not waiting.is_alive()


def test_close_frees_whoever_waits_for_room():
    mailbox = Mailbox[int]({"front": 0.0}, queue_depth=1)
    mailbox.put("front", 0)
    waiting = threading.Thread(target=mailbox.put, args=("front", 1))
    waiting.start()
    mailbox.close()
    waiting.join(5.0)
    assert not waiting.is_alive()
    assert mailbox.take(1) == []
