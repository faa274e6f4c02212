import base64
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from lvad_perception.errors import ImageError
from lvad_perception.metrics import Evaluator, FrameMetadata
from lvad_perception.report import Run, curve_charts, write_page, write_report
from lvad_perception.report.charts import Series, line_chart, log_ticks, nice_ticks, recall_chart, smoothed
from lvad_perception.report.evaluation import Evaluation, keep_frame
from lvad_perception.report.frames import picture
from lvad_perception.types import Detections, Predictions, Truth, TruthBoxes

SIZE = (48, 64)
_VOID = {"meta", "img", "input", "line", "path", "circle", "br"}
WEATHER = {"weather": "rainy", "timeofday": "night"}


class Page(HTMLParser):
    """Collects text, addresses and element counts, and notices elements that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.text, self.addresses, self.counts, self.open = [], [], {}, []
        self.attributes, self.comments = set(), []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.attributes |= {name for name, _ in attrs}
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_comment(self, data):
        self.comments.append(data)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def page_of(path, *runs, **content):
    write_report(path, title="A report", runs=runs, **content)
    return Page(path.read_text(encoding="utf-8"))


def some_frame(shift=4):
    boxes = np.array([[4, 4, 40, 40], [10, 10, 20, 30]], np.float32)
    labels = np.array([2, 0], np.int32)
    semantic, drivable = np.zeros(SIZE, np.uint8), np.full(SIZE, 2, np.uint8)
    semantic[:20], drivable[30:, :40] = 10, 0
    truth = Truth(SIZE, TruthBoxes(boxes, labels, np.zeros(2, bool)), semantic, drivable)
    found = Detections(boxes[:1], np.array([0.9], np.float32), labels[:1])
    return Predictions(SIZE, found, semantic, np.roll(drivable, shift, axis=1)), truth


def some_evaluation(*, losses=True, attributes=WEATHER, names=("first", "second")):
    """An evaluation of two frames, of which the second is worse."""
    evaluator, metadata, kept = Evaluator(), {}, []
    for place, name in enumerate(names):
        predictions, truth = some_frame(shift=4 * place)
        evaluator.add(predictions, truth, frame=name)
        terms = {"box_l1": 1.0, "semantic_dice": 2.0 + place} if losses else {}
        metadata[name] = FrameMetadata(name, attributes, terms)
        kept.append(keep_frame(name, picture_of(), truth, predictions))
    return Evaluation(evaluator.findings(metadata), tuple(kept), {"split": "val"})


def some_metrics():
    return some_evaluation().findings.metrics


def picture_of(value=90):
    return np.full((*SIZE, 3), value, np.uint8)


def test_everything_of_two_runs_is_on_the_page_and_nothing_comes_from_outside(tmp_path):
    trained = Run(
        "trained",
        evaluation=some_evaluation(),
        losses={"total": [(0, 4.0), (10, 2.0), (20, 1.0)], "boxes L1": [(0, 3.0), (20, 0.5)]},
        step_values={"learning rate": [(0, 1e-3), (20, 1e-4)]},
        validation={"Boxes AP50": [(10, 5.0), (20, 9.0)]},
        settings={"train.seed": 1, "train.steps": 20},
    )
    other = Run(
        "other",
        evaluation=some_evaluation(losses=False),
        losses={"total": [(0, 5.0), (20, 2.0)]},
        settings={"train.seed": 2, "train.steps": 20},
        metadata={"folder": "runs/other"},
    )
    page = page_of(
        tmp_path / "new" / "report.html",
        trained,
        other,
        summary="Trained for a while.",
        metadata={"torch": "2.9", "log": "line 1\nline 2"},
        commands=["lvad-train run tiny.yaml"],
    )
    text = " ".join(page.text)
    for wanted in (
        "A report",
        "Trained for a while.",
        "2.9",
        "line 1\nline 2",
        "lvad-train run tiny.yaml",
        "boxes L1",
        "learning rate",
        "Validation during training",
        "pedestrian",
        "alternative",
        "Boxes at IoU 0.5: other",
        "By weather, in percent",
        "By time of day, in percent",
        "rainy",
        "1. ",
        "trained: loss 4.00, 0.50 above the median: semantic_dice +0.50",
        "other: error",
        "prediction: other",
        "train.seed",
        "runs/other",
    ):
        assert wanted in text, wanted
    assert "train.steps" not in text  # the same in both
    assert page.counts["img"] == 8  # two frames: image, truth and two predictions
    assert all(address.startswith(("data:image/webp;base64,", "#")) for address in page.addresses)
    source = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in source
    assert not re.search(r"url\(|@import|https?://", source)


def test_the_worst_frame_comes_first(tmp_path):
    page_of(tmp_path / "report.html", Run("run", evaluation=some_evaluation()), frames=1)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    worst = source[source.index('id="worst-frames"') : source.index('id="other-frames"')]
    assert "1. second" in worst
    assert "first" not in worst
    page = page_of(tmp_path / "report.html", Run("run", evaluation=some_evaluation()), frames=0)
    assert "img" not in page.counts


def test_a_note_states_what_a_run_lacks(tmp_path):
    old = Run("old", metrics=some_metrics(), note="it has no evaluation; measure it again")
    bare = Run("bare", evaluation=some_evaluation(attributes={}, names=("a", "b")))
    text = " ".join(page_of(tmp_path / "report.html", old, bare).text)
    assert "old: it has no evaluation; measure it again" in text
    assert "No frame of bare states its weather, scene or time of day" in text
    assert "By weather" not in text
    assert "measured on different images" not in text  # nobody knows which images the old one saw
    again = Run("again", evaluation=some_evaluation())
    assert "measured on different images" in " ".join(page_of(tmp_path / "report.html", again, bare).text)


def test_sections_without_content_are_left_out(tmp_path):
    page = page_of(tmp_path / "report.html")
    assert "section" not in page.counts
    assert page.counts["h1"] == 1
    page = page_of(tmp_path / "report.html", metadata={"a": 1})
    assert page.counts["section"] == 1


def test_a_task_that_was_not_evaluated_is_a_dash_and_not_zero(tmp_path):
    evaluator = Evaluator(["drivable"])
    mask = np.zeros(SIZE, np.uint8)
    evaluator.add(Predictions(SIZE, None, None, mask), Truth(SIZE, None, None, mask))
    page = page_of(tmp_path / "report.html", Run("only drivable", metrics=evaluator.compute()))
    text = "".join(page.text)
    assert "100.0" in text
    assert "–" in text  # noqa: RUF001
    assert "Boxes: average precision" not in text
    assert "nan" not in text.lower()


def test_names_and_values_are_escaped(tmp_path):
    name = 'quote " & <x>'
    page = page_of(
        tmp_path / "report.html",
        Run("<m>", evaluation=some_evaluation(names=(name, "y")), losses={"<total>": [(0, 1.0), (1, 2.0)]}),
        Run("<n>", note="<note>"),
        metadata={"<b>bold</b>": "a & b <i>"},
        commands=["echo '<script>alert(1)</script>'"],
    )
    text = "".join(page.text)
    for wanted in ("<b>bold</b>", "a & b <i>", "<script>alert(1)</script>", "<total>", "<m>", 'quote " & <x>'):
        assert wanted in text
    assert "script" not in page.counts


def test_nothing_of_others_becomes_html(tmp_path):
    """Classes, topics, attributes and names come from files and bags of others."""
    bad = [
        "</title><script>alert(1)</script>",
        "<img src=x onerror=alert(2)>",
        "x\" onload='alert(3)'",
        "]]>--><!-- & <b>",
    ]
    evaluation = some_evaluation(attributes={"weather": bad[0], "scene": bad[1], "timeofday": bad[2]}, names=bad[:2])
    found = evaluation.findings
    named = {"detection": tuple(f"{name}{place}" for place, name in enumerate([*bad, *bad, *bad[:2]]))}
    precision = dict.fromkeys(named["detection"], np.linspace(1, 0, 101))
    measured = replace(
        found.metrics,
        detection=replace(
            found.metrics.detection,
            per_class=dict(zip(named["detection"], found.metrics.detection.per_class.values(), strict=False)),
        ),
        semantic=replace(
            found.metrics.semantic,
            scores=replace(found.metrics.semantic.scores, iou=dict.fromkeys(bad, 50.0)),
            truth_share=dict.fromkeys(bad, 25.0),
        ),
    )
    evaluation = replace(
        evaluation,
        findings=replace(found, metrics=measured, classes={**found.classes, **named}, precision=precision),
        metadata=dict.fromkeys(bad, bad[0]),
    )
    curves = {name: [(0, 1.0), (1, 2.0)] for name in bad}
    runs = [
        Run(
            name,
            evaluation=evaluation,
            losses=curves,
            step_values=curves,
            validation=curves,
            metadata={bad[2]: bad[3]},
            note=bad[0],
        )
        for name in bad[:2]
    ]
    runs = [replace(run, settings={bad[0]: place, bad[1]: f"{bad[2]}{place}"}) for place, run in enumerate(runs)]
    write_report(
        tmp_path / "r.html", title=bad[0], summary=bad[1], runs=runs, metadata={bad[0]: "\n".join(bad)}, commands=bad
    )
    source = (tmp_path / "r.html").read_text(encoding="utf-8")
    page = Page(source)
    assert page.counts.keys().isdisjoint({"script", "b0"})
    assert page.comments == []
    assert page.attributes.isdisjoint({"onerror", "onload"})
    assert all(address.startswith(("#", "data:image/webp;base64,")) for address in page.addresses)
    text = "".join(page.text)
    for wanted in bad:
        assert wanted in text


def test_pictures_are_shrunk_when_wide_and_can_be_enlarged_by_keyboard():
    wide = np.zeros((300, 2000, 3), np.uint8)
    wide[..., 0] = 200
    page = Page(picture(wide, "frame 7: image"))
    (address,) = page.addresses
    data = base64.b64decode(address.partition(",")[2])
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[:2] == (144, 960)
    assert np.abs(image.reshape(-1, 3).mean(0) - (0, 0, 200)).max() < 4  # OpenCV reads BGR
    assert page.counts["input"] == 1
    assert 'aria-label="Enlarge frame 7: image"' in picture(wide, "frame 7: image")


def test_a_picture_of_another_kind_is_refused():
    with pytest.raises(ImageError, match="is not uint8 RGB; convert it before reporting"):
        picture(np.zeros((4, 4)), "x")


def test_an_unwritable_path_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match=r"the report .* cannot be written .* choose a writable folder"):
        write_page(tmp_path / "file" / "report.html", title="x", summary="", sections=[])


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
    chart = line_chart([Series(0, "", points)], name="loss", log=log, size_wh=(400, 200))
    assert "nan" not in chart
    assert "inf" not in chart
    for x, y in re.findall(r"[ML]([-\d.]+),([-\d.]+)", chart):
        assert -0.1 <= float(x) <= 400.1
        assert -0.1 <= float(y) <= 200.1
    assert len(chart) < 60_000


def test_empty_charts_say_so():
    below = Series(0, "", [(0, -1.0), (1, 0.0)])
    assert "No value of loss" in line_chart([Series(0, "", [])], name="loss")
    assert "No value of loss" in line_chart([Series(0, "", [(0, math.nan)])], name="loss")
    assert "No value of loss" in line_chart([below], name="loss", log=True)
    assert "<svg" in line_chart([below], name="loss")


def test_the_description_says_where_a_curve_starts_and_ends():
    chart = line_chart([Series(0, "", [(0, 8.0), (100, 2.0)])], name="total", unit="step")
    assert 'aria-label="total: 8 at step 0, 2 at step 100"' in chart


def test_runs_in_a_chart_look_different_and_are_described():
    chart = line_chart([Series(0, "a", [(0, 8.0), (9, 2.0)]), Series(1, "b", [(0, 7.0), (5, 1.0)])], name="total")
    assert 'aria-label="total: a: 8 at step 0, 2 at step 9; b: 7 at step 0, 1 at step 5"' in chart
    assert '"smooth s0"' in chart
    assert '"smooth s1"' in chart
    assert "raw" not in chart


def test_a_curve_of_precision_ends_where_its_recall_does():
    curve = [(0.0, 90.0), (50.0, 40.0), (51.0, 0.0), (100.0, 0.0)]
    chart = recall_chart([Series(0, "", curve)], [Series(0, "", [(25.0, 80.0)])], name="car")
    assert len(re.findall(r"[ML][-\d.]+,", chart)) == 2
    assert "reaches 50 % recall" in chart
    assert chart.count("<circle") == 1
    assert "No car is found" in recall_chart([Series(0, "", [(0.0, 0.0), (100.0, 0.0)])], [], name="car")


def test_curves_can_be_switched_between_linear_and_logarithmic():
    page = Page(curve_charts({"total": [(0, 4.0), (20, 1.0)], "boxes": [(0, 4.0), (20, 1.0)]}))
    assert page.counts["svg"] == 4
    assert page.counts["input"] == 2


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
