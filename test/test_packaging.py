"""What setup.py, package.xml and the sources say of the package agrees."""

import os
import re
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

import pytest

import lvad_perception

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ET.parse(ROOT / "package.xml").getroot()
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")


def test_package_xml_is_an_ament_python_package_of_this_version() -> None:
    assert MANIFEST.get("format") == "3"
    assert MANIFEST.findtext("export/build_type") == "ament_python"
    assert MANIFEST.findtext("name") == "lvad_perception"
    assert MANIFEST.findtext("version") == lvad_perception.__version__
    assert MANIFEST.findtext("license") == "Apache-2.0"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").strip().startswith("Apache License")


ROS_PACKAGES = (
    *("rclpy", "cv_bridge", "diagnostic_updater", "launch", "launch_ros", "ament_index_python", "rcl_interfaces"),
    *("builtin_interfaces", "diagnostic_msgs", "geometry_msgs", "lifecycle_msgs", "sensor_msgs", "std_msgs"),
    *("vision_msgs", "rosbag2_interfaces"),
)


def test_package_xml_names_every_ros_package_that_the_sources_import() -> None:
    paths = [*(ROOT / "lvad_perception").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    imported = {name for name in ROS_PACKAGES if re.search(rf"^\s*(from|import) {name}\b", sources, re.MULTILINE)}
    assert "rclpy" in imported
    declared = {item.text for item in MANIFEST.findall("exec_depend")}
    assert imported <= declared, f"package.xml lacks {', '.join(sorted(imported - declared))}"


def test_every_command_exists() -> None:
    commands = dict(re.findall(r'"([\w-]+) = ([\w.]+):main"', SETUP))
    assert {"lvad-perception", "lvad-train", "lvad-perception-node", "lvad-evaluation-node"} == set(commands)
    for command, module in commands.items():
        path = ROOT / f"{module.replace('.', '/')}.py"
        assert path.exists(), f"{command}: there is no {module}"
        assert re.search(r"^def main\(", path.read_text(encoding="utf-8"), re.MULTILINE), f"{module} has no main()"


@pytest.mark.parametrize(
    ("executable", "command"), [("perception", "lvad-perception-node"), ("evaluation", "lvad-evaluation-node")]
)
def test_ros_executables_run_what_pips_commands_run(executable: str, command: str) -> None:
    """They are installed as they are: executable, and run by the first python3 on PATH."""
    script = ROOT / "scripts" / executable
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env python3\n")
    assert os.access(script, os.X_OK)
    (module,) = re.findall(r"^from ([\w.]+) import main$", text, re.MULTILINE)
    assert f'"{command} = {module}:main"' in SETUP
    assert f"`{command}`" in text
    assert '(f"lib/{NAME}", _files("scripts/*"))' in SETUP


@pytest.mark.parametrize("launch_file", sorted((ROOT / "launch").glob("*.launch.py")), ids=lambda path: path.name)
def test_launch_files_start_what_is_installed(launch_file: Path) -> None:
    text = launch_file.read_text(encoding="utf-8")
    executables, included = re.findall(r'executable="([\w-]+)"', text), re.findall(r'"(\w+\.launch\.py)"', text)
    assert executables or included
    for executable in executables:
        assert (ROOT / "scripts" / executable).exists()
    for name in included:
        assert (ROOT / "launch" / name).exists()


def test_every_requirement_has_a_tested_version() -> None:
    tested = {
        re.split(r"[=<>; ]", line)[0].replace("_", "-").lower()
        for line in (ROOT / "requirements" / "tested.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    names = re.findall(r'"([A-Za-z][\w-]*)(?:[<>=][^"]*)?",', SETUP.split("EXTRAS = {")[1].split("\n}\n")[0])
    names += re.findall(r'"([A-Za-z][\w-]*)[<>=][^"]*",', SETUP)
    wanted = {name.replace("_", "-").lower() for name in names} - {"tensorrt"}  # needs a GPU to be tested
    assert {"numpy", "torch", "rosbags"} <= wanted
    assert wanted <= tested, f"run make lock: no tested version of {', '.join(sorted(wanted - tested))}"


def test_the_vehicles_image_installs_a_line_of_its_page() -> None:
    """numpy's bound depends on the distribution, the image finds it."""

    def names(line: str) -> frozenset[str]:
        words = [word.strip("\"'") for word in line.partition("#")[0].split()]
        return frozenset(re.split(r"[<>=]", word)[0] for word in words if not word.startswith("-")) - {"numpy"}

    page = (ROOT / "docs" / "ros.md").read_text(encoding="utf-8")
    image = (ROOT / "docker" / "vehicle.Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = {names(line) for line in re.findall(r"^pip install (.*)$", page, re.MULTILINE)}
    (installed,) = re.findall(r"pip install (.*)$", image, re.MULTILINE)
    assert {"onnxruntime", "rosbags"} <= names(installed)
    assert names(installed) in lines


def test_the_training_image_has_the_extras_that_make_sets_up() -> None:
    make, image = (
        set(re.findall(r"'\.\[([\w,]+)\]'", (ROOT / file).read_text(encoding="utf-8"))[0].split(","))
        for file in ("Makefile", "docker/training.Dockerfile")
    )
    assert "train" in make
    assert make - {"docs", "test"} <= image


def test_typed_packages_say_so() -> None:
    for package in ("lvad_perception", "lvad_training"):
        assert find_spec(package) is not None
        assert (ROOT / package / "py.typed").exists()
