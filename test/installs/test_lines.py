"""The install lines of the documentation are all known to ``check_installs.py``, which `make test-installs` runs."""

from .cases import INSTALLATIONS, NOT_TRIED
from .lines import Line, documented, lines_of

PAGE = """
Some `pip install
one` of it, not `pip installs`.

```bash
python3 -m venv venv
pip install 'two<2' three    # for bags
pip install four
```
"""


def test_lines_are_read_from_a_page():
    assert lines_of(PAGE) == {
        "pip install one": "pip install one",
        "for bags": "pip install 'two<2' three",
        "pip install four": "pip install four",
    }


def test_every_line_of_the_documentation_is_tried_or_has_a_reason():
    tried = {installation.line for installation in INSTALLATIONS}
    found = documented()
    assert set(found) == tried | set(NOT_TRIED)
    assert not tried & set(NOT_TRIED)
    assert "'numpy<2'" in found[Line("docs/ros.md", "Humble, Jazzy: the node")]


def test_every_way_to_use_it_is_tried():
    pages = {installation.line.page for installation in INSTALLATIONS}
    assert pages >= {"docs/ros.md", "docs/deploy.md", "docs/bags.md", "docs/training.md"}
    assert {system.name for installation in INSTALLATIONS for system in installation.systems} == {
        "Humble",
        "Jazzy",
        "Lyrical",
        "laptop",
    }
