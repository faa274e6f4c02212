"""The worker with an asynchronous engine, as of a GPU: overlap, and the choice of frames."""

import itertools
import threading
import time
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest

from lvad_perception.engines.base import SLOTS
from lvad_perception.errors import EngineError
from lvad_perception.node.health import CameraHealth
from lvad_perception.node.mailbox import Mailbox
from lvad_perception.perceiver import Perceiver

PATIENCE_S = 20.0


@pytest.fixture
def make_async(make_engine):
    """The fake engine on a "device": a thread that computes one batch after another while the caller goes on."""

    class Inference:
        def __init__(self, engine, images):
            self._engine, self._images = engine, images
            self._computed = threading.Event()

        def compute(self):
            engine = self._engine
            time.sleep(engine.takes_s)
            engine.gate.wait(PATIENCE_S)
            engine.log.append(("computed", stamp_in(self._images)))
            self._outputs = engine.infer(self._images)
            self._computed.set()

        @property
        def done(self):
            return self._computed.is_set()

        def result(self):
            assert self._computed.wait(PATIENCE_S)
            self._engine.under_way -= 1
            if stamp_in(self._images) in self._engine.fails_at:
                raise EngineError("out of memory; close something")
            return self._engine.arrays(self._outputs)

    class Asynchronous(make_engine):
        takes_s, fails_at = 0.0, ()

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.gate, self.log, self.under_way, self.most = threading.Event(), deque(), 0, 0
            self.gate.set()
            self._queue, self._changed, self._ended = deque(), threading.Condition(), False
            self._device = threading.Thread(target=self._work)
            self._device.start()

        def _submit(self, slot, images):
            inference = Inference(self, images)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            self.log.append(("begun", stamp_in(images)))
            with self._changed:
                self._queue.append(inference)
                self._changed.notify()
            return inference

        def close(self):
            with self._changed:
                self._ended = True
                self._changed.notify()
            self._device.join()

        def _work(self):
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._queue or self._ended)
                    if not self._queue:
                        return
                    inference = self._queue.popleft()
                inference.compute()

    return Asynchronous


def frame(number):
    """A message of which the decoded image, of network size, is full of its number."""
    stamp = SimpleNamespace(sec=number, nanosec=0)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), number=number)


def stamp_in(images):
    return int(images[0, 0, 0, 2])


@pytest.fixture
def start(ros_environment, make_async, make_manifest, monkeypatch):
    """A function that starts a worker for one camera, with everything around it made up."""
    from lvad_perception.node import worker as module

    running = []

    def begin(*, lossless=False, decode_s=0.0, publish_s=0.0, takes_s=0.0, fails_at=()):
        engine = make_async(make_manifest(batch_size=1))
        engine.takes_s, engine.fails_at = takes_s, fails_at
        found = SimpleNamespace(engine=engine, published=[], publishers=set(), errors=[], gate=threading.Event())
        found.gate.set()

        def decode(message, *, most_pixels):
            engine.log.append(("taken", message.number))
            time.sleep(decode_s)
            return np.full((48, 64, 3), message.number, np.uint8)

        def publish(image, predictions, header, camera_info):
            found.gate.wait(PATIENCE_S)
            time.sleep(publish_s)
            found.publishers.add(threading.current_thread().name)
            engine.log.append(("published", header.stamp.sec))
            found.published.append((header.stamp.sec, int(predictions.semantic_confidence[0, 0])))

        monkeypatch.setattr(module, "decode", decode)
        found.health = CameraHealth()
        outputs = SimpleNamespace(wanted_tasks={"detection", "semantic", "drivable"}, publish=publish)
        source = SimpleNamespace(topic="/camera/image_raw", camera_info=None)
        found.mailbox = Mailbox({"camera": 0.0}, queue_depth=4 if lossless else None)
        found.worker = module.Worker(
            mailbox=found.mailbox,
            perceiver=Perceiver(engine),
            cameras={"camera": module.ActiveCamera(source, outputs, found.health)},
            now_ns=time.time_ns,
            logger=SimpleNamespace(error=found.errors.append),
        )
        found.put = lambda number: found.mailbox.put("camera", frame(number))
        running.append(found)
        return found

    yield begin
    for found in running:
        found.gate.set()
        found.engine.gate.set()
        found.worker.stop()
        found.engine.close()


def test_the_next_inference_begins_before_the_last_is_published(start, wait_until):
    found = start()
    found.gate.clear()  # nothing can be published
    found.put(1)
    wait_until(lambda: ("computed", 1) in found.engine.log)
    found.put(2)
    wait_until(lambda: ("computed", 2) in found.engine.log)
    assert found.published == []
    found.gate.set()
    wait_until(lambda: len(found.published) == 2)
    assert found.published == [(1, 1), (2, 2)]


def test_the_next_frame_is_begun_before_the_last_is_computed(start, wait_until):
    found = start(lossless=True, takes_s=0.2, decode_s=0.06)
    for number in (1, 2, 3):  # of the first the worker learns how long the engine takes
        found.put(number)
    wait_until(lambda: len(found.published) == 3)
    log = list(found.engine.log)
    assert log.index(("begun", 2)) > log.index(("computed", 1))
    assert log.index(("taken", 3)) < log.index(("computed", 2))
    assert found.engine.most <= SLOTS


def test_of_two_frames_that_come_while_the_engine_computes_the_newer_is_taken(start, wait_until):
    found = start(takes_s=0.3)
    found.put(1)
    wait_until(lambda: found.published)
    found.put(2)
    wait_until(lambda: ("begun", 2) in found.engine.log)
    for number in (3, 4):
        time.sleep(0.05)
        found.put(number)
    wait_until(lambda: len(found.published) == 3)
    assert [number for number, _ in found.published] == [1, 2, 4]
    assert ("taken", 3) not in found.engine.log


def test_no_frame_waits_for_the_engine_once_its_time_is_known(start, wait_until):
    found = start(takes_s=0.1, decode_s=0.03)
    stop = threading.Event()
    numbers = iter(range(1, 255))

    def camera():
        while not stop.wait(0.005):
            found.put(next(numbers, 254))

    playing = threading.Thread(target=camera)
    playing.start()
    wait_until(lambda: len(found.published) >= 8)
    stop.set()
    playing.join()
    report = found.health.report()
    assert report.latency_ms[0] < 100 + 30 + 60  # taken at once, it would be twice the engine's 100
    assert report.parts_ms["engine"][0] < 100 + 50


def test_lossless_every_frame_is_published_in_order_with_its_own_result(start, wait_until):
    found = start(lossless=True, takes_s=0.002, publish_s=0.003, decode_s=0.001)
    for number in range(1, 101):
        found.put(number)
    wait_until(lambda: len(found.published) == 100)
    assert found.published == [(number, number) for number in range(1, 101)]
    assert found.engine.most <= SLOTS


def test_two_inferences_are_in_the_engine_and_never_a_third(start, wait_until):
    found = start(lossless=True, decode_s=0.01)
    found.put(1)
    wait_until(lambda: found.published)  # by which the engine is known to be faster than the decoding
    found.engine.gate.clear()
    for number in (2, 3, 4):
        found.put(number)
    wait_until(lambda: ("begun", 3) in found.engine.log)
    time.sleep(0.1)
    assert found.engine.under_way == SLOTS
    assert ("taken", 4) not in found.engine.log
    assert found.published == [(1, 1)]
    found.engine.gate.set()
    wait_until(lambda: len(found.published) == 4)
    assert found.published == [(number, number) for number in range(1, 5)]


def test_slow_publishing_holds_the_engine_back(start, wait_until):
    found = start(lossless=True)
    found.gate.clear()
    playing = threading.Thread(target=lambda: [found.put(number) for number in range(1, 9)])
    playing.start()
    wait_until(lambda: ("computed", 2) in found.engine.log)
    time.sleep(0.1)
    assert [number for what, number in found.engine.log if what == "begun"] == [1, 2]
    found.gate.set()
    playing.join()
    wait_until(lambda: len(found.published) == 8)


def test_an_inference_that_fails_costs_its_frame_alone(start, wait_until):
    found = start(lossless=True, fails_at=(2, 3))
    for number in range(1, 7):
        found.put(number)
    wait_until(lambda: len(found.published) == 4)
    assert found.published == [(number, number) for number in (1, 4, 5, 6)]
    assert found.health.report().failed == 2
    assert found.errors == [
        "/camera/image_raw: frame stamped 2.000000000 skipped (1 so far): out of memory; close something"
    ]


def test_a_failed_device_is_reported_with_each_frame(start, wait_until, monkeypatch):
    """Also if the query for completion fails: no slot stays occupied, which later frames would report."""
    found = start(lossless=True)
    said = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported at another call"

    class Failed:
        @property
        def done(self):
            raise RuntimeError(said)

        def result(self):
            raise RuntimeError(said)

    monkeypatch.setattr(found.engine, "_submit", lambda slot, images: Failed())
    monkeypatch.setattr(found.health, "_clock", itertools.count(0.0, 10.0).__next__)  # each is due to be logged
    for number in range(1, 6):
        found.put(number)
    wait_until(lambda: len(found.errors) == 5)
    reasons = {error.partition(" so far): ")[2] for error in found.errors}
    assert reasons == {
        "the CUDA device failed (CUDA error: device-side assert triggered); restart the process, and the machine if it "
        "fails again"
    }
    assert found.published == []
    assert found.worker.is_alive


def test_stopping_publishes_what_is_under_way(start, wait_until):
    found = start(lossless=True)
    found.engine.gate.clear()
    found.put(1)
    wait_until(lambda: ("begun", 1) in found.engine.log)
    stopping = threading.Thread(target=found.worker.stop)
    stopping.start()
    stopping.join(0.1)
    assert stopping.is_alive()
    found.engine.gate.set()
    stopping.join(PATIENCE_S)
    assert found.published == [(1, 1)]
    assert not found.worker.is_alive


def test_stopping_waits_until_the_last_is_published_and_may_be_repeated(start, wait_until):
    found = start(lossless=True)
    found.gate.clear()  # nothing can be published
    found.put(1)
    wait_until(lambda: ("computed", 1) in found.engine.log)
    stopping = threading.Thread(target=found.worker.stop)
    stopping.start()
    stopping.join(0.1)
    assert stopping.is_alive()
    assert found.published == []
    found.gate.set()
    stopping.join(PATIENCE_S)
    assert found.published == [(1, 1)]
    found.worker.stop()


def test_one_thread_publishes_all_in_order(start, wait_until):
    found = start(lossless=True)
    for number in range(1, 21):
        found.put(number)
    wait_until(lambda: len(found.published) == 20)
    assert [number for number, _ in found.published] == list(range(1, 21))
    assert found.publishers == {"perception publisher_0"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_publishing_that_fails_unexpectedly_ends_the_worker_which_the_diagnostics_report(start, wait_until):
    found = start(lossless=True)

    def fail(*_, **__):
        raise ZeroDivisionError

    found.health.count_published = found.health.count_skipped = fail  # not even the failure can be counted
    found.put(1)
    found.put(2)
    wait_until(lambda: not found.worker.is_alive)
    assert found.mailbox.take(1) == []  # closed, so that nobody waits for room in it


def test_the_parts_are_the_whole_latency(start, wait_until):
    found = start(lossless=True, takes_s=0.02, decode_s=0.01, publish_s=0.015)
    for number in range(1, 13):
        found.put(number)
    wait_until(lambda: len(found.published) == 12)
    kept = found.health
    sums = [sum(parts) for parts in zip(*kept._parts_ms.values(), strict=True)]
    np.testing.assert_allclose(sums, kept._latencies_ms, atol=3)
