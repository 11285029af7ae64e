"""Files from strangers: thousands of broken ones, each refused with our own error or read as exactly what it states.

Two kinds of damage: to the file as it is, which the checksum finds, and to its parts with the checksum made right
again, as someone would who means harm.
"""

from __future__ import annotations

import json
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from torch import nn

from selfmask.cascades.cascade_file import load_cascade
from selfmask.errors import MaskFileError
from selfmask.maskfile.container import CHECKSUM_KEY, Array, parse, serialise
from selfmask.maskfile.loading import load, parse_mask
from selfmask.maskfile.mask import Mask
from selfmask.maskfile.quantised import quantised
from selfmask.maskfile.saving import save_mask

MASKED = ("conv2.weight", "conv3.weight")


@pytest.fixture
def files(tmp_path: Path, model: nn.Module) -> list[bytes]:
    """One file for each coding, with companions of every kind."""
    random = torch.Generator().manual_seed(1)
    state = model.state_dict()
    theta = {name: state.pop(name) for name in MASKED}
    contents = []
    for kind in ("alike", "packed", "classes of rows"):
        shares = {n: torch.full((len(t), 1, 1, 1), 0.05) for n, t in theta.items()}
        if kind == "classes of rows":
            for share in shares.values():
                share[::2] = 0.4
        masks = {n: torch.rand(t.shape, generator=random) > shares[n] for n, t in theta.items()}
        path = save_mask(
            tmp_path / kind,
            theta=theta,
            masks=masks,
            rest=state,
            statistics={"norm1.running_mean": torch.ones(8), "norm1.num_batches_tracked": torch.tensor(3)},
            trained={"fc.bias": torch.ones(10)},
            norms={
                f"norm2.{part}": quantised(torch.linspace(-1, 2, 64), 8, part) for part in ("weight", "bias")
            },
            head={"weight": torch.ones(2, 3), "bias": torch.ones(2)},
            head_dtype="int4" if kind == "packed" else "float16",
            metadata={"training": {"data": "digits"}},
            packed=kind == "packed",
        )
        contents.append(path.read_bytes())
    assert any(coded.rows for coded in parse_mask(contents[2], Path("rows")).index.masks.values())
    return contents


def everything(content: bytes) -> Mask:
    """All that reading can do: parse, check, decode."""
    mask = parse_mask(content, Path("mutant"))
    masks = mask.masks()
    digest = xxhash.xxh3_128(
        b"".join(np.packbits(m.numpy(), bitorder="little").tobytes() for m in masks.values())
    )
    assert digest.hexdigest() == mask.index.digest
    return mask


def holds(content: bytes) -> bool:
    """Whether the file was read; anything but a `MaskFileError` fails the test, as does taking a second."""
    begin = time.process_time()
    try:
        everything(content)
    except MaskFileError:
        return False
    finally:
        assert time.process_time() - begin < 1
    return True


def damaged(content: bytes, draw: random.Random) -> bytes:
    """One to three of: a flipped bit, a changed byte, a cut, a doubled or removed stretch."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data))
        match draw.randrange(6):
            case 0 | 1:
                data[at] ^= 1 << draw.randrange(8)
            case 2:
                data[at] = draw.randrange(256)
            case 3:
                del data[max(at, 1) :]
            case 4:
                data[at:at] = data[at : at + draw.randint(1, 40)]
            case _:
                del data[at : at + draw.randint(1, 40)]
        if not data:
            break
    return bytes(data)


def test_two_thousand_damaged_files(files: list[bytes]) -> None:
    draw = random.Random(0)
    whole = set(files)
    for k in range(2001):
        mutant = damaged(files[k % len(files)], draw)
        assert holds(mutant) == (mutant in whole)


def checked(content: bytes) -> bytes:
    """The file with its checksum made right, where it still has one."""
    at = content.find(f'"{CHECKSUM_KEY}":"'.encode())
    if at < 0:
        return content
    at += len(CHECKSUM_KEY) + 4
    blank = content[:at] + b"0" * 32 + content[at + 32 :]
    return content[:at] + xxhash.xxh3_128_hexdigest(blank).encode() + content[at + 32 :]


def test_two_thousand_damaged_files_with_their_checksums_made_right(files: list[bytes]) -> None:
    draw = random.Random(1)
    read = 0
    for k in range(2001):
        read += holds(checked(damaged(files[k % len(files)], draw)))
    # Some are read: the values of running statistics and of the metadata are whatever the file says.
    assert 20 < read < 1000


def test_memory_stays_within_twice_what_the_file_justifies(files: list[bytes], model: nn.Module) -> None:
    draw = random.Random(2)
    weights = sum(model.get_parameter(name).numel() for name in MASKED)
    everything(files[0])
    for k in range(300):
        mutant = checked(damaged(files[k % len(files)], draw))
        tracemalloc.start()
        holds(mutant)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # The masks take a byte a weight; the base itself is held (in part) while its classes are looked up.
        assert peak < 2 * (len(mutant) + 5 * weights)


def values(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    yield path
    members = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for key, value in members:
        yield from values(value, (*path, key))


HOSTILE = (
    -1,
    0,
    1,
    2**31,
    2**63,
    10**40,
    1.5,
    True,
    None,
    "",
    "x" * 70,
    "F32",
    [],
    [0],
    [1] * 80,
    [2**40, 2**40],
    [0, 2**70],
    [0, 2**40, 2**40],
    {},
)


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copied = dict(document) if isinstance(document, dict) else list(document)
    copied[path[0]] = replaced(copied[path[0]], path[1:], value)
    return copied


def test_every_value_of_the_index_made_hostile(files: list[bytes]) -> None:
    tried = 0
    for content in files:
        metadata, arrays = parse(content, "whole")
        index = json.loads(zlib.decompress(arrays["index"].data.data))
        for path in values(index):
            for value in HOSTILE[tried % 2 :: 2]:
                tried += 1
                text = zlib.compress(json.dumps(replaced(index, path, value)).encode())
                mutant = serialise(metadata, arrays | {"index": Array.of(np.frombuffer(text, np.uint8))})
                if holds(mutant):
                    # What only `apply` compares with the model may be anything; what was masked is the same.
                    free = path[0] in ("base", "statistics", "trained") and path[1] in (
                        "name",
                        "dtype",
                        "shape",
                    )
                    # So may the head's names, which are for the user.
                    free |= len(path) == 3 and path[:2] == ("head", "name")
                    assert free or value == _at(index, path)
    assert tried > 2000


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def test_every_value_of_the_header_made_hostile(files: list[bytes]) -> None:
    content = files[1]
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for path in values(header):
        for value in HOSTILE:
            text = json.dumps(replaced(header, path, value), separators=(",", ":")).encode()
            holds(checked(len(text).to_bytes(8, "little") + text + content[8 + length :]))


def with_index(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def mutate(content: bytes) -> bytes:
        metadata, arrays = parse(content, "whole")
        index = json.loads(zlib.decompress(arrays["index"].data.data))
        change(index)
        text = np.frombuffer(zlib.compress(json.dumps(index).encode()), np.uint8)
        return serialise(metadata, arrays | {"index": Array.of(text)})

    return mutate


def with_array(name: str, values: np.ndarray) -> Callable[[bytes], bytes]:
    def mutate(content: bytes) -> bytes:
        metadata, arrays = parse(content, "whole")
        return serialise(metadata, arrays | {name: Array.of(values)})

    return mutate


def with_scales(name: str, values: list[float]) -> Callable[[bytes], bytes]:
    def mutate(content: bytes) -> bytes:
        metadata, arrays = parse(content, "whole")
        stored = torch.tensor(values, dtype=torch.bfloat16).view(torch.uint8).numpy()
        return serialise(metadata, arrays | {name: Array("BF16", (len(values),), stored)})

    return mutate


def with_header(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def mutate(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        text = content[8 : 8 + length]
        assert old in text
        text = text.replace(old, new, 1)
        return checked(len(text).to_bytes(8, "little") + text + content[8 + length :])

    return mutate


def moved(by: int) -> Callable[[bytes], bytes]:
    """The last tensor so many bytes further on: before it lies a gap, or the end of the one before."""

    def mutate(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
        tensors = [entry["data_offsets"] for key, entry in header.items() if key != "__metadata__"]
        last = max(tensors)
        begin, end = last
        last[:] = begin + by, end + by
        data = data[: begin + min(by, 0)] + bytes(max(by, 0)) + data[begin:end]
        text = json.dumps(header, separators=(",", ":")).encode()
        return checked(len(text).to_bytes(8, "little") + text + data)

    return mutate


BOMB = np.frombuffer(zlib.compress(b'{"a":"' + b"x" * (200 << 20) + b'"}'), np.uint8)
DEEP = np.frombuffer(zlib.compress(b"[" * 1_000_000), np.uint8)


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (lambda c: b"", "too short"),
        (lambda c: c[:5], "too short"),
        (lambda c: c[:200], "cut short"),
        (lambda c: c[:-1], "cut short"),
        (lambda c: c + b"\0", "1 bytes after the last tensor"),
        (lambda c: b"\xff" * 8 + c[8:], "header claims 18446744073709551615 bytes"),
        (lambda c: b"\x80\x02}q\x00." * 100, "not a safetensors file"),
        (with_header(b'"selfmask.format":"1"', b'"selfmask.format":"7"'), "format '7'.*Update selfmask"),
        (with_header(b'"selfmask.checksum"', b'"selfmask.checkSum"'), "without selfmask's checksum"),
        (
            with_header(b'"selfmask.checksum":"', b'"selfmask.check\\u0073um":"'),
            "the checksum is not where a mask file has it",
        ),
        (with_header(b'"training":"', b'"training":"\\ud800'), "header is not valid JSON.*surrogates"),
        (with_index(lambda i: i["base"]["name"].__setitem__(0, "\ud800")), "surrogates not allowed"),
        (with_header(b'"alpha":', b'"index":'), "a key occurs twice"),
        (with_header(b'"training":"{', b'"training":"['), "metadata 'training' is not valid JSON"),
        (with_header(b'"dtype":"U8"', b'"dtype":"F8"'), "dtype 'F8'"),
        (moved(1), "the tensors overlap or leave a gap"),
        (moved(-1), "the tensors overlap or leave a gap"),
        (with_array("index", BOMB), "cut short or larger"),
        (with_array("index", DEEP), "not valid JSON"),
        (with_array("other", DEEP), "a tensor 'other' that format 1 does not have"),
        (with_array("alpha", np.ones(2, np.float32)), "α of 'conv2.weight' is not that of"),
        (with_array("alpha", np.ones(3, np.float32)), "3 values of α for 2 masks"),
        (with_array("statistics/F32", np.ones(9, np.float32)), "more statistics than its index names"),
        (with_array("statistics/F32", np.ones(7, np.float32)), "'norm1.running_mean' is missing"),
        (with_array("fingerprints", np.ones((3, 8), np.uint8)), "not one for each base tensor"),
        (with_index(lambda i: i["base"]["name"].__setitem__(1, "conv2.weight")), "name occurs twice"),
        (with_index(lambda i: i["masks"]["tensor"].__setitem__(1, 0)), "'conv2.weight' is masked twice"),
        (
            with_index(lambda i: i["masks"]["off"][0].__setitem__(0, 10**6)),
            "more weights of 'conv2.weight' are off",
        ),
        (with_index(lambda i: i["masks"].__setitem__("digest", "0" * 32)), "do not have the digest"),
        (with_array("norms.steps", np.zeros(127, np.uint8)), "norms 'norm2.bias' is missing"),
        (with_array("norms.steps", np.zeros(129, np.uint8)), "more norms than its index names"),
        (with_array("norms.steps", np.full(128, 255, np.uint8)), "'norm2.weight': a step is beyond"),
        (with_array("norms.steps", np.zeros(128, np.int8)), "'norms.steps' has dtype I8, expected U8"),
        (with_array("norms.scales", np.ones(2, np.uint16)), "'norms.scales' has dtype U16, expected BF16"),
        (with_scales("norms.scales", [1.0]), "norms 'norm2.bias' is missing"),
        (with_scales("norms.scales", [1.0, 1.0, 1.0]), "more norms than its index names"),
        (with_scales("norms.scales", [1.0, torch.nan]), "'norm2.bias': a scale is negative, not finite"),
        (with_scales("norms.scales", [torch.inf, 1.0]), "'norm2.weight': a scale is negative, not finite"),
        (with_scales("head.scales", [-1.0, 1.0, 1.0]), "head 'weight': a scale is negative, not finite"),
        (with_array("head.steps", np.zeros(3, np.uint8)), "head 'bias' is missing"),
        (with_array("head/bias", np.ones(2, np.float32)), "the head's 'bias' is stored twice"),
        (
            with_array("norms.other", np.zeros(3, np.uint8)),
            "a tensor 'norms.other' that format 1 does not have",
        ),
        (with_index(lambda i: i.pop("norms")), "more norms than its index names"),
        (with_index(lambda i: i.pop("head")), "more head than its index names"),
        (
            with_index(lambda i: i["norms"]["tensor"].__setitem__(0, 0)),
            "'conv2.weight' is a norm's and something",
        ),
        (
            with_index(lambda i: i["norms"]["tensor"].__setitem__(0, i["norms"]["tensor"][1])),
            "twice in norms",
        ),
        (with_index(lambda i: i["norms"]["tensor"].__setitem__(0, 10**6)), "not one of the base's"),
        (with_index(lambda i: i["norms"]["bits"].__setitem__(0, 9)), "the bits of norms are not 2 to 8"),
        (with_index(lambda i: i["head"]["shape"].__setitem__(0, [2**20, 2**40])), "head 'weight' is missing"),
        (
            with_index(lambda i: i["head"]["shape"].__setitem__(0, [2**40, 2**40])),
            "a shape of head is malformed",
        ),
        (with_index(lambda i: i["head"]["name"].__setitem__(0, "bias")), "a name occurs twice in the head"),
    ],
)
def test_each_kind_of_damage_has_its_message(
    files: list[bytes], mutate: Callable[[bytes], bytes], message: str
) -> None:
    with pytest.raises(MaskFileError, match=message):
        everything(mutate(files[1]))


@pytest.mark.parametrize("array", [BOMB, DEEP])
def test_a_bomb_takes_no_more_memory_than_an_index_may(files: list[bytes], array: np.ndarray) -> None:
    mutant = with_array("index", array)(files[0])
    tracemalloc.start()
    with pytest.raises(MaskFileError):
        everything(mutant)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_a_huge_tensor_that_is_all_on_is_not_allocated(files: list[bytes]) -> None:
    def huge(index: dict[str, Any]) -> None:
        index["base"]["shape"][0] = [1 << 40, 1 << 10]
        index["masks"]["off"][0] = [0]

    mutate = with_index(huge)
    alphas = with_array("alpha", np.array([1, 0.5], np.float32))
    tracemalloc.start()
    with pytest.raises(MaskFileError, match=r"claims 1125899906861056 masked weights, .*pass max_weights"):
        everything(alphas(mutate(files[1])))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_an_empty_tensor_with_a_huge_side_is_refused(files: list[bytes]) -> None:
    for shape in ((0, 2**70), (0, 2**40, 2**40)):
        metadata, arrays = parse(files[0], "whole")
        content = serialise(metadata, arrays | {"head/w": Array("F32", shape, np.zeros(0, np.uint8))})
        with pytest.raises(MaskFileError, match=r"'head/w' has dtype 'F32' and shape .*not understood"):
            parse_mask(content, Path("huge"))


def test_of_weights_whatever_their_size_only_the_header_is_read(tmp_path: Path) -> None:
    size = 1 << 36
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    file = tmp_path / "model.safetensors"
    with file.open("wb") as opened:
        opened.write(len(header).to_bytes(8, "little") + header)
        opened.truncate(8 + len(header) + size)  # a hole, that takes no room
    tracemalloc.start()
    try:
        for reader in (load, load_cascade):
            with pytest.raises(MaskFileError, match=r"model.safetensors: .* so not a mask file"):
                reader(file)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
