"""Counts, rates, ages and latencies of one camera, without ROS."""

import pytest

from lvad_perception.node.health import LOG_PERIOD_S, PARTS, CameraHealth


@pytest.fixture
def health(clock):
    return CameraHealth(clock=clock)


def test_rates_are_those_since_the_previous_report(clock, health):
    for index in range(20):
        health.count_received(replaced=index % 2 == 1)
        if index % 2:
            health.count_published(received_s=clock.now_s - 0.03, age_s=0.1, parts_ms={})
    clock.now_s += 2.0
    report = health.report()
    assert (report.input_hz, report.output_hz) == pytest.approx((10.0, 5.0))
    assert (report.received, report.dropped, report.newly_published) == (20, 10, 10)
    clock.now_s += 1.0
    report = health.report()
    assert (report.input_hz, report.output_hz, report.silent_s) == pytest.approx((0.0, 0.0, 3.0))
    assert (report.received, report.newly_published) == (20, 0)


def test_latencies_are_median_and_tail(clock, health):
    before = health.report()
    assert (before.latency_ms, before.age_ms, before.parts_ms) == (None, None, {})
    for latency_ms in [10] * 98 + [500] * 2:
        health.count_published(
            received_s=clock.now_s - latency_ms / 1000,
            age_s=latency_ms / 1000 + 1,
            parts_ms={"publish": 1.0, "engine": latency_ms - 2.0},
        )
    report = health.report()
    assert report.latency_ms == pytest.approx((10.0, 500.0))
    assert report.age_ms == pytest.approx((1010.0, 1500.0))
    assert report.parts_ms == {"engine": (8.0, 498.0), "publish": (1.0, 1.0)}
    assert list(report.parts_ms) == [part for part in PARTS if part in report.parts_ms]


def test_latencies_forget_what_was_long_ago(clock, health):
    for latency_s in [9.0] * 300 + [0.01] * 300:
        health.count_published(received_s=clock.now_s - latency_s, age_s=latency_s, parts_ms={"engine": latency_s})
    report = health.report()
    assert report.latency_ms == pytest.approx((10.0, 10.0))
    assert report.parts_ms["engine"] == (0.01, 0.01)


def test_the_newest_frame_ages(clock, health):
    assert health.report().newest_age_s is None
    health.count_received(replaced=False, age_s=0.25)
    clock.now_s += 1.5
    assert health.report().newest_age_s == pytest.approx(1.75)
    health.count_received(replaced=True, age_s=0.5)
    assert health.report().newest_age_s == pytest.approx(0.5)


def test_bad_frames_are_all_counted_but_logged_now_and_then(clock, health):
    assert [health.count_skipped("truncated", corrupt=True) for _ in range(5)] == [1, 0, 0, 0, 0]
    clock.now_s += LOG_PERIOD_S
    assert health.count_skipped("out of memory") == 6
    report = health.report()
    assert (report.corrupt, report.failed, report.skipped, report.newly_skipped) == (5, 1, 6, 6)
    assert report.last_problem == "out of memory"
    assert health.report().newly_skipped == 0


def test_jumps_are_counted(health):
    health.count_jump()
    assert (health.report().jumps, health.report().newly_jumped) == (1, 0)
    health.count_jump()
    report = health.report()
    assert (report.jumps, report.newly_jumped) == (2, 1)
