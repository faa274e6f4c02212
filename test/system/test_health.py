"""Counts, rates and latencies of one camera, without ROS."""

import pytest

from lvad_perception.node.health import LOG_PERIOD_S, CameraHealth


class Clock:
    """Seconds that only the test moves."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_those_since_the_previous_report():
    clock = Clock()
    health = CameraHealth(clock=clock)
    for index in range(20):
        health.count_received(replaced=index % 2 == 1)
        if index % 2:
            health.count_published(received_s=clock.now - 0.03, age_s=0.1)
    clock.now += 2.0
    report = health.report()
    assert (report.input_hz, report.output_hz) == pytest.approx((10.0, 5.0))
    assert (report.received, report.dropped) == (20, 10)
    clock.now += 1.0
    report = health.report()
    assert (report.input_hz, report.output_hz, report.silent_s) == pytest.approx((0.0, 0.0, 3.0))
    assert report.received == 20


def test_latency_is_median_and_tail():
    clock = Clock()
    health = CameraHealth(clock=clock)
    assert health.report().latency_ms is None
    for latency_ms in [10] * 98 + [500] * 2:
        health.count_published(received_s=clock.now - latency_ms / 1000, age_s=latency_ms / 1000 + 1)
    report = health.report()
    assert report.latency_ms == pytest.approx((10.0, 500.0))
    assert report.age_ms == pytest.approx(1010.0)


def test_bad_frames_are_all_counted_but_logged_now_and_then():
    clock = Clock()
    health = CameraHealth(clock=clock)
    assert [health.count_skipped("truncated") for _ in range(5)] == [1, 0, 0, 0, 0]
    clock.now += LOG_PERIOD_S
    assert health.count_skipped("wrongly stepped") == 6
    report = health.report()
    assert (report.skipped, report.newly_skipped, report.last_problem) == (6, 6, "wrongly stepped")
    assert health.report().newly_skipped == 0
