"""What docs/ros.md claims: tests and launch arguments that exist. Its links are checked with all others."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "ros.md").read_text(encoding="utf-8")
LINKS = re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", TEXT)


def test_every_claim_names_a_test():
    claims = [(name, target) for name, target in LINKS if "/test/" in target]
    assert len(claims) >= 15
    for name, target in claims:
        source = (ROOT / "docs" / target).read_text(encoding="utf-8")
        assert f"def test_{name}(" in source, f"{target} has no test_{name}"


def test_launch_files_that_are_shown_exist_and_have_the_arguments():
    commands = re.findall(r"ros2 launch lvad_perception (\w+\.launch\.py)((?:[^\n`]|\\\n)*)", TEXT)
    assert {name for name, _ in commands} == {"camera.launch.py", "evaluate.launch.py", "replay.launch.py"}
    for name, arguments in commands:
        source = (ROOT / "launch" / name).read_text(encoding="utf-8")
        for argument in re.findall(r"(?:^|\s)(\w+):=", arguments):
            assert f'"{argument}"' in source, f"{name} has no argument {argument}"
