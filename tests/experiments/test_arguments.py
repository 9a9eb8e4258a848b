"""Every argument of every experiment says what it is for."""

import argparse
import importlib

import pytest

NAMES = (
    "atari.command", "classify", "detect", "dream", "edges", "faces", "finetune", "go", "imagenet", "imagenet_train",
    "nuclei", "pose", "pose_train", "retrieve", "roads", "segment", "speedrun", "style", "video", "visualize",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_has_a_help(name):
    parser = importlib.import_module(f"experiments.{name}").parser()
    assert not [action.option_strings for action in parser._actions if action.help in (None, argparse.SUPPRESS)]
    shown = parser.format_help()
    assert "None)" not in shown
    assert "(default: False)" not in shown
