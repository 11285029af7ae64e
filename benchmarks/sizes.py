"""Sizes of trained masks: bits a weight under general packers, the per-tensor entropy and our codings; whole files
against fp32 and fp16 weights and LoRA.

    python benchmarks/sizes.py MASK... [--backbone SPEC --weights FILE] [--json]

`raw` is packed bits, `entropy` the sum over tensors of N·H(share on), both for the masks alone. "alone" is
`coding="entropy"`, readable without the base; "beside θ" is `coding="base"`. Both count all that decoding needs
(streams, thresholds, models), as measured on whole files. LoRA is rank 8 by peft on the masked layers, stored as fp32.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import lzma
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor, nn

from selfmask.artifact import Mask, load, save_derived
from selfmask.artifact.coding import Coding
from selfmask.cli.rebuilding import backbone_of

RANK = 8


def entropy(masks: dict[str, Tensor]) -> float:
    """Σ N·H(share on) over the tensors, in bits."""
    bits = 0.0
    for mask in masks.values():
        total, on = mask.numel(), int(mask.sum())
        for part in (on, total - on):
            bits -= part * math.log2(part / total) if part else 0
    return bits


def stored(mask: Mask, masks: dict[str, Tensor], base: nn.Module, coding: Coding) -> dict[str, int]:
    """Bytes by part of the file in another coding."""
    with tempfile.TemporaryDirectory() as folder:
        return load(save_derived(Path(folder) / "m", mask, masks, note={}, base=base, coding=coding)).bytes()


def lora_bytes(model: nn.Module, names: tuple[str, ...]) -> int | None:
    """Bytes of LoRA's matrices on the layers whose weights are masked, or None without peft."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        return None
    modules = dict(model.named_modules())
    layers = [n.removesuffix(".weight") for n in names if n.endswith(".weight")]
    layers = [n for n in layers if isinstance(modules[n], nn.Linear | nn.Conv2d)]
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=RANK, target_modules=layers))  # type: ignore[arg-type]
    return sum(4 * p.numel() for n, p in adapted.named_parameters() if "lora_" in n)


def measure(path: Path, spec: str | None, weights: Path | None) -> dict[str, Any]:
    """Every figure of one mask file."""
    mask = load(path)
    base = backbone_of(mask, spec, weights).module
    masks = mask.masks(base)
    weights_masked = mask.index.weights
    raw = np.concatenate([np.packbits(m.numpy(), bitorder="little") for m in masks.values()]).tobytes()
    alone, beside = (stored(mask, masks, base, coding) for coding in ("entropy", "base"))
    sizes = {
        "raw": len(raw),
        "gzip -9": len(gzip.compress(raw, 9)),
        "zstd -19": len(zstandard.ZstdCompressor(19).compress(raw)),
        "lzma -9": len(lzma.compress(raw, preset=9)),
        "entropy": entropy(masks) / 8,
        "alone": alone["masks"],
        "beside θ": beside["masks"],
    }
    network = sum(t.numel() for t in base.state_dict().values() if t.is_floating_point())
    return {
        "mask": path.name,
        "weights": weights_masked,
        "on": mask.density(),
        "bits_per_weight": {name: 8 * size / weights_masked for name, size in sizes.items()},
        "ours_over_lzma": {
            "alone": sizes["alone"] / sizes["lzma -9"],
            "beside θ": sizes["beside θ"] / sizes["lzma -9"],
        },
        "ours_over_entropy": {
            "alone": sizes["alone"] / sizes["entropy"],
            "beside θ": sizes["beside θ"] / sizes["entropy"],
        },
        "files": {
            "fp32": 4 * network,
            "fp16": 2 * network,
            "LoRA rank 8": lora_bytes(base, mask.names),
            "mask file, alone": alone["file"],
            "mask file, beside θ": beside["file"],
            "fp32 / smaller mask file": 4 * network / min(alone["file"], beside["file"]),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("masks", nargs="+", type=Path)
    parser.add_argument("--backbone")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = [measure(path, arguments.backbone, arguments.weights) for path in arguments.masks]
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    for row in found:
        print(f"\n{row['mask']}: {row['weights']:,} weights, {100 * row['on']:.2f} % on; bits a weight:")
        print("  " + "  ".join(f"{name} {bits:.4f}" for name, bits in row["bits_per_weight"].items()))
        for what in ("lzma", "entropy"):
            ratio = row[f"ours_over_{what}"]
            print(f"  over {what}: alone {ratio['alone']:.3f}, beside θ {ratio['beside θ']:.3f}")
        for name, size in row["files"].items():
            print(f"  {name:26} {'not measured' if size is None else format(size, ',.0f')}")


if __name__ == "__main__":
    main()
