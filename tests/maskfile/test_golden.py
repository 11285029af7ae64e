"""Files of format 1 as the first version wrote them: every later version must read them, to the bit."""

from __future__ import annotations

import importlib.util
import json
import zlib
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest
import torch
from torch import nn

from selfmask.errors import WrongBaseError
from selfmask.maskfile.codec import GapModel, Golomb
from selfmask.maskfile.container import parse
from selfmask.maskfile.loading import load

GOLDEN = Path(__file__).parent / "golden"
CODINGS = ("packed", "entropy", "golomb", "norms")


def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Holder(nn.Module):
    """A module with parameters and buffers of any dotted names."""

    def __init__(self, parameters: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in parameters.items():
            owner, last = self._owner(name)
            owner.register_parameter(last, nn.Parameter(value))
        for name, value in buffers.items():
            owner, last = self._owner(name)
            owner.register_buffer(last, value)

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        *path, last = name.split(".")
        owner: nn.Module = self
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        return owner, last


def holder(coding: str) -> Holder:
    make = made()
    parameters = make.base(make.DTYPES[coding], make.shapes(coding)) | {"fc.bias": torch.zeros(2)}
    if coding == "norms":
        parameters |= {"norm.weight": torch.ones(5), "norm.bias": torch.zeros(5)}
    return Holder(parameters, {"norm.running_mean": torch.arange(5.0)})


@pytest.mark.parametrize("coding", CODINGS)
def test_golden_files_are_read_to_the_bit(coding: str) -> None:
    model = holder(coding)
    mask = load(GOLDEN / f"format1-{coding}.safetensors")
    expected = made().masks(made().shapes(coding))
    found = mask.masks()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert mask.metadata["base"] == "linear congruential"
    if coding == "norms":
        assert {name: t.tolist() for name, t in mask.head.items()} == made().HEAD
        assert set(mask.head_dtypes.values()) == {"int4"}
    else:
        assert torch.equal(mask.head["weight"], torch.eye(2, 3).half())
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with mask.apply(model):
        assert model.get_buffer("norm.running_mean").tolist() == [0, 0.5, 1, 1.5, 2]
        assert model.get_parameter("fc.bias").tolist() == [1, -2]
        if coding == "norms":
            added = [-127 / 1024, -1 / 1024, 0, 1 / 1024, 127 / 1024]
            assert model.get_parameter("norm.weight").tolist() == [1 + one for one in added]
            assert model.get_parameter("norm.bias").tolist() == [k * 3 / 512 for k in (15, -15, 1, 0, -2)]
        body = model.get_parameter("body.weight")
        assert torch.equal(body != 0, expected["body.weight"] & (before["body.weight"] != 0))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_golden_files_know_their_base() -> None:
    mask = load(GOLDEN / "format1-packed.safetensors")
    with pytest.raises(WrongBaseError, match=r"'stem.weight': its dtype is BF16, the base's F32"):
        mask.apply(holder("entropy"))


def test_a_golden_file_has_golomb_codes() -> None:
    mask = load(GOLDEN / "format1-golomb.safetensors")
    models = [model for coded in mask.index.masks.values() for model in coded.models]
    assert {type(model) for model in models} == {Golomb, GapModel}
    assert any(isinstance(model, Golomb) and model.threefold for model in models)


@pytest.mark.parametrize("coding", ["packed", "golomb", "norms"])
def test_this_version_writes_what_the_golden_files_hold(coding: str, tmp_path: Path) -> None:
    """Not a promise of the format (a later writer may choose better), but a change must be meant."""
    made().make(tmp_path)
    name = f"format1-{coding}.safetensors"
    assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize("coding", CODINGS)
def test_the_schema_holds(coding: str) -> None:
    schema = json.loads((files("selfmask.maskfile") / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    content = (GOLDEN / f"format1-{coding}.safetensors").read_bytes()
    texts, arrays = parse(content, coding)
    document = {
        "metadata": {key: json.loads(text) for key, text in texts.items() if not key.startswith("selfmask.")},
        "index": json.loads(zlib.decompress(arrays["index"].data.data)),
    }
    jsonschema.validate(document, schema)
    document["index"]["masks"]["packed"][0] = 2
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)
