"""The cascade file: what goes in comes out bit for bit, costs less than separate files, and damage is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfmask.cascades.cascade_file import load_cascade, write_cascade
from selfmask.cascades.evaluation import storage
from selfmask.cascades.member import RELATIVE, pack_member, unpack_member
from selfmask.errors import MaskFileError, RunError, SettingsError, WrongBaseError
from selfmask.maskfile.container import Array, count, parse, serialise
from selfmask.maskfile.fingerprint import signature
from selfmask.maskfile.index import Base
from selfmask.maskfile.loading import load, parse_mask
from selfmask.maskfile.quantised import quantised
from selfmask.maskfile.saving import mask_bytes

from .conftest import EXPERTS, Made


def test_members_are_the_masks_that_were_written(made: Made) -> None:
    cascade = made.cascade
    assert cascade.experts == EXPERTS
    for number, original in enumerate([load(made.dispatcher), *made.experts]):
        member = cascade.member(number)
        for name, mask in original.masks().items():
            assert torch.equal(member.masks()[name], mask)
        for name, value in original.statistics.items():
            assert torch.equal(member.statistics[name], value)
        before = {k: v.clone() for k, v in made.backbone.module.state_dict().items()}
        with original.apply(made.backbone.module) as module:
            expected = {k: v.clone() for k, v in module.state_dict().items()}
        with member.apply(made.backbone.module) as module:
            assert all(torch.equal(v, expected[k]) for k, v in module.state_dict().items())
        assert all(torch.equal(v, before[k]) for k, v in made.backbone.module.state_dict().items())
    with pytest.raises(SettingsError, match="members 0 to 3, not 4"):
        cascade.member(4)


def test_it_costs_less_than_separate_files_and_says_what_each_part_takes(made: Made) -> None:
    sizes = made.cascade.bytes()
    assert sizes["file"] == made.cascade.path.stat().st_size
    assert sum(size for part, size in sizes.items() if part != "file") == sizes["file"]
    # A float32 for each entry of a projection, and a float64 for each of the mean.
    assert sizes["fusion, conditional"] == 4 * 16 * (4 * 16) + 8 * 4 * 16
    assert sizes["dispatcher"] == made.dispatcher.stat().st_size
    kept = storage(made.cascade, [made.dispatcher, *(expert.path for expert in made.experts)])
    assert kept["masks"] == sizes["dispatcher"] + sizes["experts"]
    assert kept["masks"] < kept["separate"]


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 999),
    shapes=st.lists(st.lists(st.integers(0, 7), max_size=4), min_size=1, max_size=4),
)
def test_any_masks_survive_as_members(
    shares: tuple[float, float], seed: int, shapes: list[list[int]]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    theta = {f"{index}.weight": torch.randn(shape, generator=generator) for index, shape in enumerate(shapes)}
    first, expert = (
        {name: torch.rand(t.shape, generator=generator) < share for name, t in theta.items()}
        for share in shares
    )
    gain = torch.randn(5, generator=generator)
    tensors = {**theta, "gain": gain, "running_mean": torch.zeros(3)}
    base = Base.of({name: signature(t) for name, t in tensors.items()})
    path = Path("cascade.safetensors")
    dispatcher = parse_mask(mask_bytes(base, first, {}, {}, {}, {}, packed=True), path)
    norms = {"gain": quantised(gain / 9, 8, "gain")}
    content = pack_member(base, first, expert, {"running_mean": torch.arange(3.0)}, norms)
    found = unpack_member(content, path, dispatcher, first)
    assert found.index.base == base
    assert all(torch.equal(found.masks()[name], mask) for name, mask in expert.items())
    assert torch.equal(found.statistics["running_mean"], torch.arange(3.0))
    assert found.norms["gain"].equals(norms["gain"])
    elsewhere = parse_mask(
        mask_bytes(Base.of({n: signature(t) for n, t in theta.items()}), first, {}, {}, {}, {}), path
    )
    with pytest.raises(MaskFileError, match="an expert's norm 'gain' is none of the base's"):
        unpack_member(content, path, elsewhere, first)
    with pytest.raises(MaskFileError, match="an expert's statistic 'running_mean' is none of the base's"):
        unpack_member(
            pack_member(base, first, expert, {"running_mean": torch.ones(2)}, norms), path, dispatcher, first
        )
    wider = {name: torch.ones(2, *mask.shape, dtype=torch.bool) for name, mask in first.items()}
    with pytest.raises(MaskFileError, match="has another shape"):
        unpack_member(content, path, dispatcher, wider)


def test_a_difference_is_stored_only_where_it_is_smaller() -> None:
    generator = torch.Generator().manual_seed(0)
    close = torch.rand(4000, generator=generator) < 0.6
    first = {"close": close, "far": torch.rand(4000, generator=generator) < 0.5}
    expert = {
        "close": close ^ (torch.rand(4000, generator=generator) < 0.01),
        "far": torch.rand(4000, generator=generator) < 0.02,
    }
    base = Base.of({name: signature(torch.zeros(4000)) for name in first})
    content = pack_member(base, first, expert, {}, {})
    assert parse_mask(content, Path("x")).metadata[RELATIVE] == [0]
    assert len(content) < len(mask_bytes(base, expert, {}, {}, {}, {}))


def test_parts_that_do_not_belong_together_are_not_written(made: Made, tmp_path: Path) -> None:
    content = made.dispatcher.read_bytes()
    fusions = made.cascade.fusions
    with pytest.raises(SettingsError, match="3 experts, got 2 masks"):
        write_cascade(
            tmp_path / "x", dispatcher=content, experts=made.experts[:2], router=made.router, fusions=fusions
        )
    with torch.no_grad():
        made.backbone.module.get_parameter("stem.bias").add_(1)
    with pytest.raises(WrongBaseError, match=r"stem\.bias"):
        made.cascade.member(1).apply(made.backbone.module)
    with pytest.raises(RunError, match="cannot be written"):
        write_cascade(
            made.dispatcher / "below a file",
            dispatcher=content,
            experts=made.experts,
            router=made.router,
            fusions=fusions,
        )
    assert not (tmp_path / "x").exists()


def test_what_is_no_cascade_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(MaskFileError, match="a mask file, not a cascade"):
        load_cascade(made.dispatcher)
    with pytest.raises(MaskFileError, match="no such file"):
        load_cascade(tmp_path / "nothing")
    with pytest.raises(MaskFileError, match="a folder"):
        load_cascade(tmp_path)
    with pytest.raises(MaskFileError):
        load(made.cascade.path)


def test_files_whose_parts_contradict_each_other_are_refused(made: Made, tmp_path: Path) -> None:
    texts, arrays = parse(made.cascade.path.read_bytes(), "x")

    def refused(changed: dict[str, Array | None], text: dict[str, str] | None = None) -> None:
        found = {name: array for name, array in ({**arrays, **changed}).items() if array is not None}
        path = tmp_path / "changed.safetensors"
        path.write_bytes(serialise({**texts, **(text or {})}, found))

        def read() -> None:
            cascade = load_cascade(path)
            for number in range(cascade.experts + 1):
                cascade.member(number).masks()

        with pytest.raises(MaskFileError):
            read()

    refused({"dispatcher": None})
    refused({"experts/2": None})
    refused({"experts/4": arrays["experts/1"]})
    refused({"experts/1": arrays["dispatcher"]})
    refused({"experts/1": Array("U8", (9,), arrays["experts/1"].data[:9])})
    refused({"dispatcher": arrays["experts/1"]})
    refused({"router/means": None})
    refused({"router/means": arrays["router/offset"]})
    refused({"fusion/conditional/mean": arrays["router/offset"]})
    refused({"fusion/conditional/projection": None})
    refused({"other": arrays["dispatcher"]})
    refused({}, {"router": json.dumps("kmeans")})
    refused({}, {"router": json.dumps(None)})
    refused({}, {"selfmask.cascade": "2"})


def test_damaged_files_are_refused(made: Made, tmp_path: Path) -> None:
    content = made.cascade.path.read_bytes()
    path = tmp_path / "damaged.safetensors"
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        place = int(torch.randint(len(content), (1,), generator=generator))
        bit = 1 << int(torch.randint(8, (1,), generator=generator))
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        with pytest.raises(MaskFileError):
            load_cascade(path)
        path.write_bytes(content[:place])
        with pytest.raises(MaskFileError):
            load_cascade(path)


ODD_TEXTS = ["", "null", "0", "[]", "{}", '"x"', "[" * 9000, "1" * 5000, "NaN", '{"a": {"b": [1]}}']


def changes_of(array: Array) -> list[Array]:
    """What may stand in a tensor's place and is well formed by itself."""
    size, length = len(array.data) // max(count(array.shape), 1), count(array.shape)
    whole = array.data.copy()
    flat = [
        Array(array.dtype, (length,), whole),
        Array(array.dtype, (0,), whole[:0]),
        Array(array.dtype, (1, *array.shape), whole),
        Array(array.dtype, array.shape, np.zeros_like(whole)),
        Array(
            array.dtype, array.shape, np.full_like(whole, 255)
        ),  # NaN where it is a float, −1 where an integer
        Array("U8", (len(whole),), whole),
    ]
    if length > 1:
        flat.append(Array(array.dtype, (length - 1,), whole[:-size]))
    return flat


def test_every_part_made_odd_ends_in_our_own_error_or_is_read(made: Made, tmp_path: Path) -> None:
    """The checksum is right, as whoever makes a file can make it."""
    texts, arrays = parse(made.cascade.path.read_bytes(), "x")
    path = tmp_path / "odd.safetensors"
    refused = 0

    def tried(texts: dict[str, str], arrays: dict[str, Array]) -> int:
        path.write_bytes(serialise(texts, arrays))
        try:
            cascade = load_cascade(path)
            for number in range(cascade.experts + 1):
                cascade.member(number).masks()
            cascade.router.assign(torch.nn.functional.normalize(torch.randn(5, cascade.router.width), dim=1))
        except MaskFileError:
            return 1
        return 0

    for name, array in arrays.items():
        refused += tried(texts, {n: a for n, a in arrays.items() if n != name})
        for changed in changes_of(array):
            refused += tried(texts, {**arrays, name: changed})
    for key in texts:
        for text in ODD_TEXTS:
            refused += tried({**texts, key: text}, arrays)
    assert tried(texts, arrays) == 0
    assert refused > 100
