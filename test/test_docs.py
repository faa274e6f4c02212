"""The documentation cannot rot silently: its links lead somewhere, its commands exist, and the site builds."""

import argparse
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if path.name != "CHANGELOG.md"  # speaks of what was
)
_FENCED = re.compile(r"^```(?:bash|text|yaml|)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:lvad-train|lvad-perception) [^`]+)`")
_ANCHOR = re.compile(r"^#+ (.+)$", re.MULTILINE)
_OPTION = re.compile(r"^--[a-z][\w-]*")
_MODULES = {"lvad_training.cli": "lvad-train", "lvad_perception.cli": "lvad-perception"}


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def hooks():
    """docs/hooks.py, which knows what a link of a page leads to; it needs no mkdocs for that."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsers():
    """Command -> its parser."""
    training = pytest.importorskip("lvad_training.cli", reason="training is not installed")
    from lvad_perception import cli

    return {"lvad-train": training._parser(), "lvad-perception": cli._parser()}


def commands(markdown):
    """Command lines of our programs in a page's code blocks, as lists of words; comments and pipes are cut off."""
    for block in _FENCED.findall(markdown):
        for line in re.split(r"\n| && ", block.replace("\\\n", " ")):
            line = re.sub(r"^accelerate launch -m (\S+)", lambda match: _MODULES[match[1]], line.strip())
            if line.startswith(("lvad-train ", "lvad-perception ")):
                yield shlex.split(re.split(r"\s\||\s>", line)[0].replace("$ROOT", "ROOT"), comments=True)


def subparser(parser, words):
    """The parser of the innermost command that the words name, and the words that are left."""
    while words and (groups := [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]):
        if words[0] not in groups[0].choices:
            raise ValueError(f"there is no {words[0]} among {', '.join(groups[0].choices)}")
        parser, words = groups[0].choices[words[0]], words[1:]
    return parser, words


def slug(title):
    """The anchor of a heading, as code hosts and the site make it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
    return re.sub(r"[^\w -]", "", plain).strip().lower().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target, anchor in hooks().repository_links(text_of(page), page):
        assert (ROOT / target).exists(), f"{page} links to {target}, which is not there"
        if anchor and target.endswith(".md"):
            outside_code = re.sub(r"^```.*?^```$", "", text_of(target), flags=re.MULTILINE | re.DOTALL)
            anchors = {slug(title) for title in _ANCHOR.findall(outside_code)}
            assert anchor[1:] in anchors, f"{page} links to {target}{anchor}, which has no such heading"


def test_diagrams_have_no_semicolon():
    """Mermaid ends a statement at one, also inside a label."""
    diagrams = re.findall(r"^```mermaid$.*?^```$", text_of("docs/architecture.md"), flags=re.MULTILINE | re.DOTALL)
    assert diagrams
    assert not any(";" in diagram for diagram in diagrams)


def test_links_that_lead_nowhere_would_be_found():
    text = "[a](there.md#x) `[no](link.md)`\n```\n[b](in/code.md)\n```\n[c](../d.py) [e](https://e.org/f) [g](#here)"
    found = list(hooks().repository_links(text, "docs/page.md"))
    assert found == [("docs/there.md", "#x"), ("d.py", ""), ("docs/page.md", "#here")]


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_accepted(page, capsys):
    known = parsers()
    for words in commands(text_of(page)):
        shown = shlex.join(words)
        if "…" in shown:  # shortened
            continue
        try:
            known[words[0]].parse_args(words[1:])
        except SystemExit:
            pytest.fail(f"{page}: {shown}\n{capsys.readouterr().err.splitlines()[-1]}")


@pytest.mark.parametrize("page", PAGES)
def test_keys_of_recipes_exist(page):
    known = parsers()
    from lvad_training.recipe.config import load_recipe

    for words in commands(text_of(page)):
        if words[:2] in (["lvad-train", "run"], ["lvad-train", "reproduce"]) and "…" not in words:
            options = known[words[0]].parse_args(words[1:])
            recipe = ROOT / (getattr(options, "recipe", None) or "config/train_edge.yaml")
            if options.set and recipe.is_file():
                load_recipe(recipe, options.set)


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_exist(page):
    known = parsers()
    for line in _INLINE.findall(text_of(page)):
        program, *words = line.split()
        try:
            parser, rest = subparser(known[program], [word for word in words if word != "…"])
        except ValueError as err:
            pytest.fail(f"{page}: `{line}`: {err}")
        for word in rest:
            option = _OPTION.match(word)
            assert not option or option.group() in parser._option_string_actions, f"{page}: `{line}` has no {word}"


def test_wrong_commands_would_be_found():
    text = (
        "```bash\nlvad-train run r.yaml --set a=1 \\\n    --resume   # why it's so\n"
        "ls that's\naccelerate launch -m lvad_training.cli run r | tail\n```"
    )
    assert list(commands(text)) == [
        ["lvad-train", "run", "r.yaml", "--set", "a=1", "--resume"],
        ["lvad-train", "run", "r"],
    ]
    with pytest.raises(SystemExit):
        parsers()["lvad-train"].parse_args(["run"])
    with pytest.raises(ValueError, match="there is no fly among"):
        subparser(parsers()["lvad-train"], ["fly"])
    assert sum(len(list(commands(text_of(page)))) for page in PAGES) > 50


@pytest.mark.slow
def test_the_site_builds_strictly_and_opens_offline(tmp_path):
    for module in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(module, reason="the site's tools are not installed: pip install -e '.[docs]'")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    # The theme's own notice of its successor is of no interest here.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index.html", "bdd100k.html", "extend/head.html", "reference/perceiver.html"):
        html = (site / page).read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//[^"]+"', html), page
    assert "class DilatedHead" in re.sub(r"<[^>]+>", "", (site / "extend/head.html").read_text(encoding="utf-8"))
    assert 'id="lvad_perception.perceiver.Perceiver' in (site / "reference/perceiver.html").read_text(encoding="utf-8")
    keys = re.sub(r"<[^>]+>", "", (site / "reference/recipe.html").read_text(encoding="utf-8"))
    assert "proposals: Count = 100," in keys
