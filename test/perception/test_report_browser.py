"""The report as a reader sees it, in a real browser: skipped where there is none."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from lvad_perception.report import Run, write_report

from .browser import Browser, find_browser
from .test_report import some_evaluation

WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine; install one, or name it by the variable CHROMIUM")
    with Browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of two runs with everything that there is, and one with a very long name."""
    curve = [(float(step), 40 / step) for step in range(1, 200)]
    evaluation = some_evaluation(losses=True)
    # Shares of all sizes, right and wrong, so that the colours of all are looked at.
    counts = np.zeros((19, 20), np.int64)
    for row in range(19):
        counts[row, row], counts[row, (row + 1) % 19] = 5 * row + 5, 95 - 5 * row
    findings = replace(evaluation.findings, confusions={**evaluation.findings.confusions, "semantic": counts})
    runs = [
        Run(
            name,
            evaluation=some_evaluation(losses=False) if place else replace(evaluation, findings=findings),
            losses={"total": curve, "box_l1": curve},
            step_values={"learning rate": curve},
            validation={"Boxes AP50": curve},
            settings={"train.seed": place, "data.root": "/a/long/path/without/any/space" * 4 + str(place)},
            metadata={"folder": "/another/long/path" * 8},
            note="something is missing" if place else "",
        )
        for place, name in enumerate(("short", "a-very-long-name-of-a-run-without-any-space-in-it"))
    ]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, title="Two runs", runs=runs, commands=["lvad-train run " + "x" * 300])
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_needs_nothing_else_fits_and_shows_every_chart(browser, page, tmp_path, width, scheme):
    visit = browser.open(page, width=width, scheme=scheme)
    assert visit.complaints == []
    assert [address for address in visit.requests if not address.startswith("data:")] == [page.as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate("document.querySelectorAll('section').length") == 9
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth == 64)")
    # Every chart that is shown has a curve of some extent inside its frame.
    charts = browser.evaluate(
        "[...document.querySelectorAll('.chart svg')].filter(e => e.getClientRects().length).map(e => {"
        " const a = e.getBoundingClientRect(), b = e.querySelector('path').getBoundingClientRect();"
        " return [b.width, a.left <= b.left && b.right <= a.right && a.top <= b.top && b.bottom <= a.bottom] })"
    )
    assert len(charts) == 2 + 1 + 1 + 1  # losses, learning rate, validation, the class that is found
    assert all(extent > 20 and inside for extent, inside in charts)
    browser.photograph(tmp_path / "page.png")
    picture = cv2.imread(str(tmp_path / "page.png"))
    assert picture.shape[1] <= width
    assert (picture[:20].mean() > 200) == (scheme == "light")
    assert picture.std() > 10


def test_the_axis_is_switched_without_a_script(browser, page):
    browser.open(page, width=WIDTHS["desktop"])
    shown = "[...document.querySelectorAll('.charts .log')].filter(e => e.getClientRects().length).length"
    assert browser.evaluate(shown) == 0
    browser.evaluate("document.querySelector('#axis-log').click()")
    assert browser.evaluate(shown) == 2


def test_the_space_bar_enlarges_a_picture_and_makes_it_small_again(browser, page):
    browser.open(page, width=WIDTHS["desktop"], height=900)
    browser.evaluate("document.querySelector('.zoom input').focus()")
    size = "(r => [r.width, r.height])(document.querySelector('.zoom img').getBoundingClientRect())"
    before = browser.evaluate(size)
    browser.press(" ", "Space")
    assert browser.evaluate(size) == [browser.evaluate("innerWidth"), 900]
    browser.press(" ", "Space")
    assert browser.evaluate(size) == before


def test_text_is_readable_in_both_schemes(browser, page):
    """Contrast of all text with what is behind it, as WCAG measures it: 4.5 to 1 for text of this size."""
    for scheme in ("light", "dark"):
        browser.open(page, width=WIDTHS["desktop"], scheme=scheme)
        browser.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        colours = browser.evaluate(
            "(() => { const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});"
            " const read = (...layers) => { canvas.clearRect(0, 0, 1, 1);"
            "   for (const c of layers) { canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1) }"
            "   return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3) };"
            " return [...document.querySelectorAll('td, th, p, li, h1, h2, a, summary, figcaption, span, b, i')]"
            "  .filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))"
            "  .map(e => { const behind = []; for (let p = e; p; p = p.parentElement)"
            "     behind.unshift(getComputedStyle(p).backgroundColor);"
            "   return [e.textContent.slice(0, 30), read(getComputedStyle(e).color), read(...behind)] }) })()"
        )
        assert len(colours) > 100
        bad = {(text, contrast(ink, paper)) for text, ink, paper in colours if contrast(ink, paper) < 4.5}
        assert not bad, (scheme, bad)


def test_a_reader_who_likes_it_dark_prints_black_on_white(browser, page):
    browser.open(page, width=720, scheme="dark", media="print")
    colours = "(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))"
    assert browser.evaluate(colours) == ["rgb(29, 33, 38)", "rgb(255, 255, 255)"]
    assert browser.evaluate("document.querySelector('nav').getClientRects().length") == 0
    assert browser.evaluate("document.querySelector('.scroll').scrollWidth <= innerWidth")


def contrast(first, second):
    lights = []
    for colour in (first, second):
        share = np.array(colour) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(lights) + 0.05) / (min(lights) + 0.05)
