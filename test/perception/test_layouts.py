"""Configuration of other programs, which are not there to be run: that it loads and names what exists."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from lvad_perception.topics import CONFIDENCE, OVERLAY, TASK_TOPICS

CONFIG = Path(__file__).resolve().parents[2] / "config"
IMAGE = "/camera/image_raw"
PICTURES = {
    f"/camera/{OVERLAY}",
    f"/camera/{CONFIDENCE}",
    *(f"/camera/{topic}" for task, topic in TASK_TOPICS.items() if task != "detection"),
}


def values(tree, key):
    """All values of a key, however deep."""
    if isinstance(tree, dict):
        return [value for name, value in tree.items() if name == key] + [
            found for part in tree.values() for found in values(part, key)
        ]
    return [found for part in tree for found in values(part, key)] if isinstance(tree, list) else []


def test_rviz_shows_the_image_and_every_picture():
    yaml = pytest.importorskip("yaml")
    displays = yaml.safe_load((CONFIG / "perception.rviz").read_text())["Visualization Manager"]["Displays"]
    topics = {display["Topic"]["Value"]: display["Topic"] for display in displays}
    assert topics.keys() == {IMAGE, *PICTURES}
    assert len({display["Name"] for display in displays}) == len(displays)
    assert topics[IMAGE]["Reliability Policy"] == "Best Effort"  # receives from every camera
    assert all(display["Enabled"] and display["Class"] == "rviz_default_plugins/Image" for display in displays)


def test_foxglove_shows_the_image_and_every_result_and_the_diagnostics():
    layout = json.loads((CONFIG / "foxglove.json").read_text())
    panels = layout["configById"]
    assert set(values(panels, "imageTopic")) == {IMAGE, *PICTURES}
    assert values(panels, "topicPath") == [f"/camera/{TASK_TOPICS['detection']}"]
    assert values(panels, "topicToRender") == ["/diagnostics"]
    shown = [panel for key in ("first", "second") for panel in values(layout["layout"], key) if isinstance(panel, str)]
    assert sorted(shown) == sorted(panels)


def test_the_dds_configuration_asks_for_room_and_takes_what_it_gets():
    root = ElementTree.parse(CONFIG / "cyclonedds.xml").getroot()
    size = root.find(".//{https://cdds.io/config}SocketReceiveBufferSize")
    assert size.attrib == {"max": "10MB"}  # with a "min" nodes would refuse to start where the kernel gives less
