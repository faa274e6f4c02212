"""MkDocs hooks that add the repository's own pages and source files to the site.

README.md, CONTRIBUTING.md and CHANGELOG.md become pages, and so does every file outside docs/ that a page links to.
Links that work in the repository thus work in the site too, also when opened from disk. Nothing is written to docs/.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""File of the repository -> page of the site; files in docs/ keep their paths."""
_LINK = re.compile(r"`[^`]*`|\]\((?P<target>[^()\s]+)\)")  # inline code first, so that links in it are not matched
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".xml": "xml", ".json": "json", ".sh": "bash"}


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages from outside docs/."""
    from mkdocs.structure.files import File

    texts = {source: (ROOT / source).read_text(encoding="utf-8") for source in PAGES}
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=texts[source]))
    for path in (ROOT / "docs").rglob("*.md"):
        texts[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    linked = {target for source, text in texts.items() for target, _ in repository_links(text, source)}
    for target in sorted(linked):
        path = ROOT / target
        if page_of(target).startswith("source/") and path.is_file():
            files.append(File.generated(config, page_of(target), content=_listing(target, path)))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Replace a page's links to files of the repository by links to pages of the site."""
    uri = page.file.src_uri
    source = {page: source for source, page in PAGES.items()}.get(uri, f"docs/{uri}")

    def to_page(target: str, anchor: str) -> str:
        return posixpath.relpath(page_of(target), posixpath.dirname(uri) or ".") + anchor

    return markdown if uri.startswith("source/") else _with_links(markdown, source, to_page)


def repository_links(markdown: str, source: str) -> Iterator[tuple[str, str]]:
    """The relative links of a page, except in code blocks.

    Args:
        markdown: its text.
        source: its path in the repository, such as "docs/ros.md".

    Yields:
        Path in the repository, such as "config/camera.yaml", and the anchor with its "#", or "".
    """
    found: list[tuple[str, str]] = []
    _with_links(markdown, source, lambda target, anchor: found.append((target, anchor)) or "")
    yield from found


def page_of(target: str) -> str:
    """The path in the site of a file of the repository."""
    if target in PAGES:
        return PAGES[target]
    if target.startswith("docs/") and not target.endswith(".py"):
        return target.removeprefix("docs/")
    return f"source/{target}.md"


def _with_links(markdown: str, source: str, to: Callable[[str, str], str]) -> str:
    """Replace each relative link outside code blocks by the result of ``to`` for its path and anchor."""
    folder = posixpath.dirname(source)

    def replace(match: re.Match[str]) -> str:
        if match["target"] is None:
            return match.group()
        path, sign, anchor = match["target"].partition("#")
        if ":" in path:  # another site
            return match.group()
        target = posixpath.normpath(posixpath.join(folder, path)) if path else source
        made = to(target, sign + anchor)
        return match.group() if not path else f"]({made})"

    lines, fence = [], ""
    for line in markdown.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if mark is not None and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        lines.append(line if fence or mark else _LINK.sub(replace, line))
    return "".join(lines)


def _listing(target: str, path: Path) -> str:
    """A page with the text of a file, excluded from the search."""
    language = _LANGUAGES.get(path.suffix, "text")
    text = path.read_text(encoding="utf-8")
    return (
        f"---\ntitle: {path.name}\nsearch: {{exclude: true}}\n---\n# `{target}`\n\n"
        f'``````{language} linenums="1"\n{text.rstrip()}\n``````\n'
    )
