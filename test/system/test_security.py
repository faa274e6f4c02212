"""The policy for SROS 2 allows exactly the topics and services of the node."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

POLICY = Path(__file__).resolve().parents[2] / "config" / "sros2_policy.xml"
OPTIONAL = {"/clock", "/camera/image_raw/compressed"}
"""Subscribed only with use_sim_time, and only if it is the image topic."""


@pytest.fixture
def allowed():
    """The policy's permissions: "publish", "subscribe" or "reply" -> full names."""
    (profile,) = ElementTree.parse(POLICY).findall("enclaves/enclave[@path='/perception']/profiles/profile")
    assert profile.attrib == {"ns": "/", "node": "perception"}

    def names(action):
        listed = [item.text for group in profile if group.get(action) == "ALLOW" for item in group]
        assert len(listed) == len(set(listed))
        return {name.replace("~", "/perception") if name[0] in "~/" else f"/{name}" for name in listed}

    return {action: names(action) for action in ("publish", "subscribe", "reply")}


def test_the_policy_is_what_the_node_does(tiny_model_file, make_active_node, wait_until, allowed):
    node = make_active_node(
        model=str(tiny_model_file),
        runtime="onnxruntime",
        **{"camera.camera_info_topic": "/camera/image_raw/camera_info"},
    )
    asked = {
        "publish": node.get_publisher_names_and_types_by_node,
        "subscribe": node.get_subscriber_names_and_types_by_node,
        "reply": node.get_service_names_and_types_by_node,
    }

    def done():
        return {action: {name for name, _ in ask("perception", "/")} for action, ask in asked.items()}

    wait_until(lambda: "/camera/overlay" in done()["publish"] and "/perception/change_state" in done()["reply"])
    found = done()
    # Services that later distributions add are allowed beforehand.
    assert found["publish"] == allowed["publish"]
    assert found["subscribe"] <= allowed["subscribe"] <= found["subscribe"] | OPTIONAL | {"/parameter_events"}
    assert found["reply"] <= allowed["reply"] <= found["reply"] | {"/perception/get_type_description"}
