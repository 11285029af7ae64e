"""One adaptation stored in every common way: bytes on disk of the mask file, of all weights, and of LoRA.

    python benchmarks/sizes.py MASK [--backbone SPEC --weights FILE] [--json]

Every way is written to a folder and its files are counted: the mask file as it is; the adapted network's state dict as
safetensors; LoRA of rank 8 by peft on the layers whose weights are masked, saved by its own `save_pretrained` (without
the README that it adds). Each holds the same head, as float32 in one column and as float16 in the other; all the rest
is of the precision that the row names. LoRA's bytes do not depend on what it learns, so it is not trained here.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from selfmask.backbones.spec import backbone_of
from selfmask.errors import SettingsError
from selfmask.maskfile.derive import save_derived
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.maskfile.saving import HeadDtype, head_as
from selfmask.tasks.apply import baked_state

RANK = 8
DTYPES: dict[HeadDtype, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Way:
    """A way to store the adaptation: its name, and bytes on disk with the head as float32 and as float16."""

    name: str
    total: dict[str, int]


def counted(folder: Path) -> int:
    """Bytes of the folder's files, but for a README."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name != "README.md")


def mask_file(mask: Mask, masks: dict[str, Tensor], head: dict[str, Tensor], folder: Path) -> None:
    out = folder / "mask.safetensors"
    if all(head[name].dtype == t.dtype for name, t in mask.head.items()):
        out.write_bytes(mask.path.read_bytes())
    else:
        save_derived(out, mask, masks, note=mask.metadata, head=head)


def all_weights(state: dict[str, Tensor], head: dict[str, Tensor], dtype: torch.dtype, folder: Path) -> None:
    stored = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    save_file(stored | {f"head.{n}": t.contiguous() for n, t in head.items()}, folder / "model.safetensors")


def lora(
    base: nn.Module, layers: list[str], head: dict[str, Tensor], dtype: torch.dtype, folder: Path
) -> int:
    """Write the adapter; the number of layers that it adapts."""
    from peft import LoraConfig, get_peft_model

    model = nn.ModuleDict({"backbone": copy.deepcopy(base)})
    if head:
        classes, width = head["weight"].shape
        model["mask_head"] = nn.Linear(
            width, classes
        )  # peft goes by the end of names, and "head" ends others too
    config = LoraConfig(
        r=RANK,
        target_modules=[f"backbone.{n}" for n in layers],
        modules_to_save=["mask_head"] if head else None,
    )
    adapted = get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
        elif "modules_to_save" in name:
            parameter.data = parameter.data.to(head[name.rpartition(".")[2]].dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the network is none of transformers'
        adapted.save_pretrained(str(folder))
    return sum(name.endswith("lora_A.default") for name, _ in adapted.named_modules())


def measure(path: Path, spec: str | None, weights: Path | None) -> dict[str, Any]:
    """Every figure of one mask file."""
    mask = load(path)
    if mask.head and set(mask.head) != {"weight", "bias"}:
        raise SettingsError(
            f"{path}: LoRA's row needs a linear head (weight, bias) or none, got {', '.join(mask.head)}"
        )
    base = backbone_of(mask, spec, weights).module
    masks, state = mask.masks(), baked_state(mask, base)
    modules = dict(base.named_modules())
    layers = [n.removesuffix(".weight") for n in mask.names if n.endswith(".weight")]
    layers = [n for n in layers if isinstance(modules[n], nn.Linear | nn.Conv2d)]
    adapted = 0

    def way(name: str, write: Any) -> Way:
        total = {}
        for head_dtype in DTYPES:
            with tempfile.TemporaryDirectory() as folder:
                write(head_as(mask.head, head_dtype), Path(folder))
                total[head_dtype] = counted(Path(folder))
        return Way(name, total)

    ways = [way("mask file", lambda head, folder: mask_file(mask, masks, head, folder))]
    for dtype_name, dtype in DTYPES.items():
        ways.append(
            way(
                f"all weights, {dtype_name}",
                lambda head, folder, dtype=dtype: all_weights(state, head, dtype, folder),
            )
        )
    for dtype_name, dtype in DTYPES.items():

        def write(head: dict[str, Tensor], folder: Path, dtype: torch.dtype = dtype) -> None:
            nonlocal adapted
            adapted = lora(base, layers, head, dtype, folder)

        ways.append(way(f"LoRA rank {RANK}, {dtype_name}", write))
    ours = ways[0].total
    return {
        "mask": str(path),
        "file": path.stat().st_size,
        "backbone": mask.learnt_on,
        "data": mask.metadata.get("training", {}).get("data"),
        "seed": mask.metadata.get("training", {}).get("seed"),
        "weights": sum(t.numel() for t in state.values() if t.is_floating_point()),
        "masked": mask.index.weights,
        "off": mask.index.weights - sum(mask.on.values()),
        "layers": {"masked": len(mask.names), "lora": adapted},
        "head": {
            d: sum(t.numel() * t.element_size() for t in head_as(mask.head, d).values()) for d in DTYPES
        },
        "ways": [
            {"name": w.name, "bytes": w.total, "over_mask": {d: n / ours[d] for d, n in w.total.items()}}
            for w in ways
        ],
    }


def table(found: dict[str, Any]) -> str:
    """The one table, in Markdown."""
    lines = [
        "| stored as | bytes, head float32 | × mask file | bytes, head float16 | × mask file |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in found["ways"]:
        cells = [f"{row['bytes'][d]:,} | {row['over_mask'][d]:.1f}" for d in DTYPES]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mask", type=Path)
    parser.add_argument("--backbone")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.mask, arguments.backbone, arguments.weights)
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    layers, head = found["layers"], found["head"]
    print(
        f"{found['data']} on {found['backbone']}, seed {found['seed']}: {found['off']:,} of {found['masked']:,} masked "
        f"weights off ({found['weights']:,} in all); LoRA on {layers['lora']} of {layers['masked']} masked layers; "
        f"head {head['float32']:,} bytes as float32, {head['float16']:,} as float16\n"
    )
    print(table(found))


if __name__ == "__main__":
    main()
