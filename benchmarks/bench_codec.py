"""Speed and size of the mask codec beside lzma and zstd, on a mask of a ResNet-50's size (23.5 M bits).

    python benchmarks/bench_codec.py [--repeats 3] [--json]

The mask is drawn, 2 % or 15 % off, with the structure that trained masks have: off-weights come in bunches by filter
("bunched"), or grow with |θ| as when SGD learns the scores ("follows |θ|"), or have no structure ("even"). All coders
run in this one process and one thread, one after the other in each repeat; the best of the repeats is shown. Times are
seconds of processor time, so that other work on the machine does not count. Ours end at one byte a weight, ready to be
applied; those of lzma and zstd at packed bits, whose unpacking is not counted against them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import lzma
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import zstandard

from selfmask.maskfile.coding import Coded, decode, rows_of, shortest_code
from selfmask.maskfile.index import model_bytes
from selfmask.maskfile.streams import Reader, Writer

# ResNet-50: stem, then for each stage its blocks' three convolutions and the downsampling.
STAGES = ((64, 64, 256, 3), (256, 128, 512, 4), (512, 256, 1024, 6), (1024, 512, 2048, 3))


def shapes() -> list[tuple[int, ...]]:
    """The 53 convolutions of a ResNet-50: 23 454 912 weights."""
    found: list[tuple[int, ...]] = [(64, 3, 7, 7)]
    for incoming, width, out, blocks in STAGES:
        for block in range(blocks):
            found += [
                (width, incoming if block == 0 else out, 1, 1),
                (width, width, 3, 3),
                (out, width, 1, 1),
            ]
        found.append((out, incoming, 1, 1))
    return found


def draw(kind: str, share_off: float, seed: int = 0) -> list[np.ndarray]:
    """Masks (bool arrays of rows × weights) of the given structure, about `share_off` of the weights off."""
    random = torch.Generator().manual_seed(seed)
    masks = []
    for shape in shapes():
        weight = torch.randn(shape, generator=random)
        share = torch.full((shape[0], *[1] * (len(shape) - 1)), share_off)
        if kind == "bunched":
            share = share * torch.randn(share.shape, generator=random).exp() * 0.6
        if kind == "follows |θ|":
            share = share / 1.275 * 2 * (weight.abs() > 0.67).float() * weight.abs()
        off = torch.rand(shape, generator=random) < share
        masks.append((~off).numpy().reshape(rows_of(shape)))
    return masks


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    result = act()
    return time.process_time() - begin, result


def ours(masks: list[np.ndarray]) -> tuple[float, float, int]:
    """(encode, decode, bytes)."""

    def encode() -> tuple[list[Coded], tuple[np.ndarray, np.ndarray]]:
        writer = Writer()
        return [shortest_code(mask).write(writer) for mask in masks], writer.finish()

    def read(coded: list[Coded], streams: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        reader = Reader(*streams)
        return [decode(reader, c, rows_of(mask.shape)) for c, mask in zip(coded, masks, strict=True)]

    to, (coded, streams) = timed(encode)
    back, found = timed(lambda: read(coded, streams))
    assert all(np.array_equal(a, b) for a, b in zip(found, masks, strict=True))
    side = sum(2 * len(c.off) + sum(len(model_bytes(m)) for m in c.models) for c in coded)
    return to, back, 4 * len(streams[0]) + len(streams[1]) + side


def packers(masks: list[np.ndarray]) -> dict[str, tuple[float, float, int]]:
    """lzma -9 and zstd -19 on the packed bits, and their times; unpacking the bits is not counted against them."""
    raw = np.concatenate([np.packbits(m, bitorder="little") for m in masks]).tobytes()
    found = {}
    for name, pack, unpack in (
        ("lzma -9", lambda b: lzma.compress(b, preset=9), lzma.decompress),
        ("zstd -19", zstandard.ZstdCompressor(19).compress, zstandard.ZstdDecompressor().decompress),
    ):
        to, packed = timed(lambda pack=pack: pack(raw))
        back, again = timed(lambda unpack=unpack, packed=packed: unpack(packed))
        assert again == raw
        found[name] = (to, back, len(packed))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    document = {}
    for kind, share in itertools.product(("even", "bunched", "follows |θ|"), (0.02, 0.15)):
        masks = draw(kind, share)
        weights = sum(m.size for m in masks)
        runs: dict[str, list[tuple[float, float, int]]] = {}
        for _ in range(arguments.repeats):
            row = {
                "selfmask": ours(masks),
                **packers(masks),
            }
            for name, values in row.items():
                runs.setdefault(name, []).append(values)
        document[f"{kind}, {100 * share:.0f} % off"] = {
            name: {
                "encode_s": round(min(v[0] for v in values), 3),
                "decode_s": round(min(v[1] for v in values), 3),
                "bits_per_weight": round(8 * values[0][2] / weights, 5),
            }
            for name, values in runs.items()
        }
    if arguments.json:
        print(json.dumps(document, ensure_ascii=False, indent=2))
        return
    for kind, rows in document.items():
        against = rows["lzma -9"]
        print(
            f"\n{kind}\n{'':26}{'encode s':>10}{'decode s':>10}{'bits/weight':>13}{'size/lzma':>11}{'decode/lzma':>13}"
        )
        for name, r in rows.items():
            ratios = (
                r["bits_per_weight"] / against["bits_per_weight"],
                r["decode_s"] / max(against["decode_s"], 1e-9),
            )
            print(
                f"{name:26}{r['encode_s']:10.3f}{r['decode_s']:10.3f}{r['bits_per_weight']:13.4f}"
                f"{ratios[0]:11.3f}{ratios[1]:13.2f}"
            )


if __name__ == "__main__":
    main()
