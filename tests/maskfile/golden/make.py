"""Makes the golden files of format 1. Run once for whatever is new in it; older files are never made again.

The base and the masks come from a linear congruential generator in integers, so that a test can make them again
without any library's random numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfmask.maskfile.quantised import Quantised
from selfmask.maskfile.saving import save_mask

SHAPES = {
    "stem.weight": (16, 3, 3, 3),
    "body.weight": (48, 40),
    "wide.weight": (64, 100),
    "gain": (24,),
    "tiny": (),
    "empty": (0, 7),
}
EVEN = {"even.weight": (50, 120)}  # a tenth off, without structure
# What this version writes; "entropy" was written before there were Golomb codes, and is only read.
PACKED = {"packed": True, "golomb": False, "norms": True}
DTYPES = {
    "packed": torch.float32,
    "entropy": torch.bfloat16,
    "golomb": torch.bfloat16,
    "norms": torch.float32,
}
HEAD = {"weight": [[0.25, -0.75, 1.75], [-14.0, 4.0, 0.0]], "bias": [0.5, -3.5]}
"""A head that four bits hold exactly."""


def numbers(seed: int, amount: int) -> np.ndarray:
    """`amount` integers in [0, 2^16) from x ← 1664525 x + 1013904223 mod 2^32, the upper 16 bits of each x."""
    state, found = seed, []
    for _ in range(amount):
        state = (1664525 * state + 1013904223) % 2**32
        found.append(state >> 16)
    return np.array(found, np.int64)


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The masked tensors of the golden file of that name."""
    return SHAPES | EVEN if name == "golomb" else SHAPES


def base(dtype: torch.dtype, shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, Tensor]:
    """The masked base weights: multiples of 1/256 in [-128, 128), rounded to `dtype`."""
    return {
        name: torch.from_numpy((numbers(k, int(np.prod(shape))) - 2**15) / 256).to(dtype).reshape(shape)
        for k, (name, shape) in enumerate(shapes.items())
    }


def masks(shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, Tensor]:
    """About 6 % off among the larger weights, none among the smaller, and every fourth row of "body" denser."""
    found = {}
    for k, (name, shape) in enumerate(shapes.items()):
        amount = int(np.prod(shape))
        off = (numbers(100 + k, amount) < 4000) & (abs(numbers(k, amount) - 2**15) > 2**14)
        if name == "wide.weight":
            off |= (numbers(100 + k, amount) < 16000) & (abs(numbers(k, amount) - 2**15) > 3 * 2**13)
        if name in EVEN:
            off = numbers(300, amount) < 6554
        off = off.reshape(shape)
        if name == "body.weight":
            off[::4] |= (numbers(200, amount) < 20000).reshape(shape)[::4]
        found[name] = torch.from_numpy(~off if shape else np.ones((), bool))
    return found


def norms() -> dict[str, Quantised]:
    """What "norms" adds to the weights of norms, in eight bits and in five."""
    sizes = [torch.tensor([size], dtype=torch.bfloat16) for size in (2**-10, 3 * 2**-9)]
    return {
        "norm.weight": Quantised(torch.tensor([-127, -1, 0, 1, 127], dtype=torch.int8), sizes[0], 8),
        "norm.bias": Quantised(torch.tensor([15, -15, 1, 0, -2], dtype=torch.int8), sizes[1], 5),
    }


def make(folder: Path) -> None:
    for name, packed in PACKED.items():
        theta = base(DTYPES[name], shapes(name))
        rest = {"norm.running_mean": torch.arange(5.0)}
        more: dict[str, Any] = {"head": {"weight": torch.eye(2, 3).half()}}
        if name == "norms":
            rest |= {"norm.weight": torch.ones(5), "norm.bias": torch.zeros(5)}
            head = {part: torch.tensor(values) for part, values in HEAD.items()}
            more = {"norms": norms(), "head": head, "head_dtype": "int4"}
        save_mask(
            folder / f"format1-{name}.safetensors",
            theta=theta,
            masks=masks(shapes(name)),
            rest=rest,
            statistics={"norm.running_mean": torch.arange(5.0) / 2},
            trained={"fc.bias": torch.tensor([1.0, -2.0])},
            **more,
            metadata={
                "selfmask": "0.1.0",
                "base": "linear congruential",
                "rule": {"name": "threshold", "mu": 0.0, "start": 1.0},
            },
            packed=packed,
        )


if __name__ == "__main__":
    make(Path(__file__).parent)
