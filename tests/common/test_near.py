"""Near misses: sorted, limited, and files found in other folders."""

from __future__ import annotations

from selfmask._common.near import aside, did_you_mean, near_misses

KNOWN = [
    "layer1.0.conv1.weight",
    "layer1.0.conv2.weight",
    "fc.weight",
    "layer1.1.conv1.weight",
    "layer1.0.conv3.weight",
]


def test_near_misses_are_sorted_and_limited() -> None:
    close = near_misses("layer1.0.conv1.weigt", KNOWN)
    assert close[0] == "layer1.0.conv1.weight"
    assert len(close) == 3
    assert did_you_mean("a", KNOWN) == aside("a", KNOWN) == ""


def test_the_same_file_elsewhere_comes_first() -> None:
    known = ["dogs/001.png", "cats/002.png", "cat/0001.png"]
    assert near_misses("cat/001.PNG", known) == ["dogs/001.png"]


def test_they_are_said_in_words() -> None:
    known = ["resnet18", "resnet34", "resnet50"]
    assert did_you_mean("resnet5", known).startswith("; did you mean 'resnet50'")
    assert did_you_mean("resnet5", known).count(" or ") == 1
    assert aside("resnet_18", known[:1]) == " (did you mean 'resnet18'?)"
