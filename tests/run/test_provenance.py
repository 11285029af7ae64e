"""A result says how it was made."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from selfmask.cli.parse import parse
from selfmask.maskset import MaskSet
from selfmask.run.loop import _Flips
from selfmask.run.provenance import command_of, machine, versions
from selfmask.run.settings import AdaptSettings


def test_the_command_gives_the_settings_back() -> None:
    settings = AdaptSettings(
        "my photos",
        out=Path("runs/a b"),
        steps=7,
        statistics=False,
        finetune=True,
        lr=0.01,
        seed=3,
        resume=True,
    )
    words = command_of(settings)
    assert words[:3] == ["selfmask", "adapt", "my photos"]
    assert words[3:] == shlex.split(
        "--out 'runs/a b' --steps 7 --lr 0.01 --no-statistics --finetune --seed 3"
    )


def test_the_command_has_the_settings_of_the_objective() -> None:
    words = command_of(AdaptSettings("d", objective="swav", objective_settings={"queue_from": 0.5}))
    assert words[3:] == ["--objective", "swav", "--swav.queue-from", "0.5"]


@pytest.mark.parametrize(
    "given",
    [
        {
            "objective": "text",
            "objective_settings": {"prompts": ("a photo of a {}.", "one {}"), "crop": None},
        },
        {"objective": "swav", "objective_settings": {"queue": None}},
        {"select": "-stem"},
    ],
)
def test_what_a_command_says_is_what_it_was_told(given: dict[str, Any]) -> None:
    settings = AdaptSettings("digits", **given)
    parsed = parse("adapt", AdaptSettings, command_of(settings)[2:])
    assert parsed is not None
    own = {name: value for name, value in settings.objective_settings.items() if value is not None}
    assert parsed.settings == replace(settings, objective_settings=own)


def test_a_setting_of_several_words_and_one_that_is_yes_or_no(tmp_path: Path) -> None:
    given = {"count": (2, 4), "watch": False}
    settings = AdaptSettings("digits", objective="swav", objective_settings=given)
    words = command_of(settings)
    assert words[words.index("--swav.count") :][:3] == ["--swav.count", "2", "4"]
    assert "--swav.no-watch" in words
    parsed = parse("adapt", AdaptSettings, words[2:])
    assert parsed is not None
    assert parsed.settings.recorded() == settings.recorded()
    # What a run has recorded is what a second run of the same command would record.
    assert json.loads(json.dumps(settings.recorded())) == settings.recorded()


def test_versions_and_machine_are_json() -> None:
    found = json.loads(json.dumps({"versions": versions(), "machine": machine(torch.device("cpu"))}))
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["threads"] == str(torch.get_num_threads())
    assert found["machine"]["processor"]


def test_flips_are_counted_between_calls() -> None:
    import torch

    layer = nn.Linear(4, 5, bias=False)
    masks = MaskSet(layer, select=["weight"])
    flips = _Flips(masks, 0)
    assert flips.share(1) == 0.0
    with torch.no_grad():
        masks.scores["weight"].view(-1)[:3] = -1.0
    assert flips.share(3) == 3 / 20 / 2  # three bits over two steps
    assert flips.share(4) == 0.0
