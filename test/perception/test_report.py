import base64
import math
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from lvad_perception.errors import ImageError
from lvad_perception.metrics import Evaluator
from lvad_perception.report import Overlay, write_report
from lvad_perception.report.charts import line_chart, log_ticks, nice_ticks, smoothed
from lvad_perception.types import Detections, Predictions, Truth, TruthBoxes

SIZE = (48, 64)
_VOID = {"meta", "img", "input", "line", "path", "circle", "br"}


class Page(HTMLParser):
    """Collects text, addresses and element counts, and notices elements that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.text, self.addresses, self.counts, self.open = [], [], {}, []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def page_of(path, **content):
    write_report(path, title="A run", **content)
    return Page(path.read_text(encoding="utf-8"))


def some_metrics():
    evaluator = Evaluator()
    boxes = np.array([[4, 4, 40, 40], [10, 10, 20, 30]], np.float32)
    labels = np.array([2, 0], np.int32)
    semantic, drivable = np.zeros(SIZE, np.uint8), np.full(SIZE, 2, np.uint8)
    semantic[:20], drivable[30:, :40] = 10, 0
    truth = Truth(SIZE, TruthBoxes(boxes, labels, np.zeros(2, bool)), semantic, drivable)
    found = Detections(boxes[:1], np.array([0.9], np.float32), labels[:1])
    evaluator.add(Predictions(SIZE, found, semantic, np.roll(drivable, 4, axis=1)), truth)
    return evaluator.compute()


def picture(value=90):
    return np.full((*SIZE, 3), value, np.uint8)


def test_everything_is_on_the_page_and_nothing_comes_from_outside(tmp_path):
    page = page_of(
        tmp_path / "new" / "report.html",
        summary="Trained for a while.",
        facts={"torch": "2.9", "log": "line 1\nline 2"},
        commands=["lvad-train run tiny.yaml"],
        curves={"total": [(0, 4.0), (10, 2.0), (20, 1.0)], "boxes L1": [(0, 3.0), (20, 0.5)]},
        metrics={"checkpoint on data set": some_metrics(), "model file on bag": some_metrics()},
        overlays=[Overlay("frame 7", picture(), picture(), picture()), Overlay("frame 8", picture(), None, picture())],
    )
    text = " ".join(page.text)
    for wanted in (
        "A run",
        "Trained for a while.",
        "2.9",
        "line 1\nline 2",
        "lvad-train run tiny.yaml",
        "boxes L1",
        "checkpoint on data set",
        "model file on bag",
        "frame 8",
        "pedestrian",
        "vegetation",
        "alternative",
    ):
        assert wanted in text, wanted
    assert page.counts["svg"] == 4  # two curves, linear and logarithmic
    assert page.counts["img"] == 5
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in page.addresses)
    source = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in source
    assert not re.search(r"url\(|@import|https?://", source)


def test_sections_without_content_are_left_out(tmp_path):
    page = page_of(tmp_path / "report.html")
    assert "section" not in page.counts
    assert page.counts["h1"] == 1
    page = page_of(tmp_path / "report.html", facts={"a": 1})
    assert page.counts["section"] == 1


def test_a_task_that_was_not_evaluated_is_a_dash_and_not_zero(tmp_path):
    evaluator = Evaluator(["drivable"])
    mask = np.zeros(SIZE, np.uint8)
    evaluator.add(Predictions(SIZE, None, None, mask), Truth(SIZE, None, None, mask))
    page = page_of(tmp_path / "report.html", metrics={"only drivable": evaluator.compute()})
    text = "".join(page.text)
    assert "100.0" in text
    assert "–" in text  # noqa: RUF001
    assert "Boxes: average precision" not in text
    assert "nan" not in text.lower()


def test_names_and_values_are_escaped(tmp_path):
    page = page_of(
        tmp_path / "report.html",
        facts={"<b>bold</b>": "a & b <i>"},
        commands=["echo '<script>alert(1)</script>'"],
        curves={"<total>": [(0, 1.0), (1, 2.0)]},
        metrics={"<m>": some_metrics()},
        overlays=[Overlay('quote " & <x>', picture(), None, picture())],
    )
    text = "".join(page.text)
    for wanted in ("<b>bold</b>", "a & b <i>", "<script>alert(1)</script>", "<total>", "<m>", 'quote " & <x>'):
        assert wanted in text
    assert "script" not in page.counts


def test_pictures_are_embedded_as_they_are_and_shrunk_when_wide(tmp_path):
    wide = np.zeros((300, 2000, 3), np.uint8)
    wide[..., 0] = 200
    page = page_of(tmp_path / "report.html", overlays=[Overlay("wide", wide, None, picture())])
    sizes = []
    for address in page.addresses:
        if address.startswith("data:"):
            data = base64.b64decode(address.partition(",")[2])
            sizes.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    assert [image.shape[:2] for image in sizes] == [(108, 720), SIZE]
    assert np.abs(sizes[0].reshape(-1, 3).mean(0) - (0, 0, 200)).max() < 4  # OpenCV reads BGR


def test_a_picture_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ImageError, match="is not uint8 RGB; convert it before reporting"):
        page_of(tmp_path / "report.html", overlays=[Overlay("x", np.zeros((4, 4)), None, picture())])


def test_an_unwritable_path_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match=r"the report .* cannot be written .* choose a writable folder"):
        write_report(tmp_path / "file" / "report.html", title="x")


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "points",
    [
        [(0, 1.0)],
        [(0, 2.0), (1, 2.0)],
        [(0, 5e-7), (1, 3e-7)],
        [(0, 1e9), (5, 2.0), (9, math.nan), (10, math.inf), (11, 0.5)],
        [(place, 10 / (place + 1)) for place in range(5000)],
    ],
)
def test_charts_draw_inside_their_frame(points, log):
    chart = line_chart(points, name="loss", log=log, size_wh=(400, 200))
    assert "nan" not in chart
    assert "inf" not in chart
    for x, y in re.findall(r"[ML]([-\d.]+),([-\d.]+)", chart):
        assert -0.1 <= float(x) <= 400.1
        assert -0.1 <= float(y) <= 200.1
    assert len(chart) < 60_000


def test_charts_of_nothing_say_so():
    assert "No value of loss" in line_chart([], name="loss")
    assert "No value of loss" in line_chart([(0, math.nan)], name="loss")
    assert "No value of loss" in line_chart([(0, -1.0), (1, 0.0)], name="loss", log=True)
    assert "<svg" in line_chart([(0, -1.0), (1, 0.0)], name="loss")


def test_the_description_says_where_a_curve_starts_and_ends():
    chart = line_chart([(0, 8.0), (100, 2.0)], name="total", unit="step")
    assert 'aria-label="total: 8 at step 0, 2 at step 100"' in chart


def test_the_running_mean_does_not_lag_behind_a_straight_line():
    line = [(place, 500.0 - place) for place in range(300)]
    assert smoothed(line) == pytest.approx(line)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0), (-3, 17), (0, 1e-6), (5, 5), (0, 123456)])
def test_ticks_are_round_few_and_span_the_values(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 7


@pytest.mark.parametrize(("low", "high"), [(0.5, 40), (3, 3), (1e-6, 1e3), (1, 10), (0.21, 0.23)])
def test_logarithmic_ticks_span_the_values(low, high):
    ticks = log_ticks(low, high)
    assert ticks == sorted(set(ticks))
    assert ticks[0] <= low * 1.001
    assert ticks[-1] >= high * 0.999
