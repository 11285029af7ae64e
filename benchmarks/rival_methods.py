"""What `rivals.py` compares: ways to adapt a network, and what each of them comes to in really written files.

Every method gets the same images, views, steps and first head. It differs in what of the network it trains, at what
rate. What a rival trained is stored as differences from the base, end to end in one tensor without names, which is
kinder to it than any format in use: float32, float16, or int8 with a bfloat16 scale a row. Ours are mask files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selfmask.errors import SettingsError
from selfmask.maskfile.budget import Worn, in_bytes, writer
from selfmask.maskfile.derive import save_derived
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.maskfile.quantised import Quantised, quantised, row_count
from selfmask.maskfile.saving import HeadDtype, stored_head
from selfmask.maskfile.trade import Learnt
from selfmask.masking.importance import at_bits, per_bit, sensitivity
from selfmask.masking.norm import running_statistics
from selfmask.masking.norm_weights import norm_weights
from selfmask.objectives.base import Method as Optimizer

HEADS: tuple[HeadDtype, ...] = ("float32", "float16", "int8")
BUDGETS = (10_240, 20_480, 51_200)
ANY = "any"
"""The precision of a head in a file of so many bytes: what was best there."""


@dataclass(frozen=True)
class Method:
    """rates: those that are searched, half a decade apart or less, and further where the best is at an end (`beyond`);
    none for what is not trained.

    optimizer: of what is trained, betas 0.9 and 0.99, no weight decay.
    train: of a rival, makes of the network (in place) what is trained, by name.
    masks: ours. scores: with norm weights, whose the `rates` then are; this is the scores', or the method whose search
    chose it.
    moving: the batch norms' running statistics move, and are stored.
    """

    rates: tuple[float, ...]
    optimizer: Optimizer = "adam"
    train: Callable[[nn.Module], dict[str, Tensor]] | None = None
    masks: bool = False
    scores: float | str | None = None
    moving: bool = False

    def beyond(self, tried: Sequence[float], best: float) -> float | None:
        """The next rate to try where the best of those `tried` is the least or the largest; None where it is not."""
        if not self.rates or min(tried) < best < max(tried):
            return None
        factor = self.rates[-1] / self.rates[-2]
        return float(f"{best * factor if best == max(tried) else best / factor:.2g}")


def _biases(module: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in module.named_parameters() if name.rpartition(".")[2] == "bias"}


def _everything(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters())


def _norms(module: nn.Module) -> dict[str, Tensor]:
    return dict(norm_weights(module))


def _lora(rank: int) -> Callable[[nn.Module], dict[str, Tensor]]:
    """peft's LoRA on every linear layer and on every convolution that is not cut into groups."""

    def adapters(module: nn.Module) -> dict[str, Tensor]:
        from peft import LoraConfig, inject_adapter_in_model

        layers = [
            name
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        ]
        # A scale of 1: the rate is searched anyway.
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), module)
        return {name: p for name, p in module.named_parameters() if "lora_" in name}

    return adapters


_SCORES, _FEW = (0.02, 0.03, 0.045, 0.06, 0.09), (0.005, 0.01, 0.015, 0.02, 0.04)
_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
METHODS: dict[str, Method] = {
    "probe": Method(()),
    "norms": Method(_RATES, train=_norms),
    "full": Method((3e-5, 1e-4, 3e-4, 1e-3, 3e-3), train=_everything),
    "masks": Method(_SCORES, masks=True),
    "masks, norms": Method(_RATES, masks=True, scores=0.03),
    "searched masks, norms": Method(_RATES, masks=True, scores="masks"),
    "few masks": Method(_FEW, "tensor-adam", masks=True),
    "few masks, norms": Method(_RATES, "tensor-adam", masks=True, scores=0.015),
    "LoRA 1": Method(_RATES, train=_lora(1)),
    "LoRA 4": Method(_RATES, train=_lora(4)),
    "biases": Method((1e-3, 3e-3, 1e-2, 3e-2, 1e-1), train=_biases),
    "LoRA 2": Method(_RATES, train=_lora(2)),
    "LoRA 8": Method((1e-4, 3e-4, 1e-3, 3e-3, 1e-2), train=_lora(8)),
    "norms, moving": Method(_RATES, train=_norms, moving=True),
}  # fmt: skip
"""In the order of the search. "few masks" are those that tensor-adam learns."""
assert all(m.optimizer in get_args(Optimizer) for m in METHODS.values())

Head = dict[str, Tensor]


@dataclass(frozen=True)
class Stored:
    """One way to store what was learnt: its name, and the file's bytes, with the head and of the head alone."""

    way: str
    file: int
    head: int


class Rival:
    """What a method trains of a network, and the files that hold it."""

    def __init__(self, method: Method, module: nn.Module) -> None:
        self.trained: dict[str, Tensor] = method.train(module) if method.train is not None else {}
        for p in module.parameters():
            p.requires_grad_(False)
        for tensor in self.trained.values():
            tensor.requires_grad_(True)
        if method.moving:
            self.trained = self.trained | running_statistics(module)
        own = {
            name for name in self.trained if "lora_" in name
        }  # the base has none: they are stored as they are
        self.base = {
            n: torch.zeros_like(t) if n in own else t.detach().clone() for n, t in self.trained.items()
        }

    def stored(self, head: Head, folder: Path) -> Iterator[list[tuple[Stored, Head]]]:
        """Each precision; the network is then what the file holds, and each file is given with the head in it."""
        changes = {name: (t.detach() - self.base[name]).cpu() for name, t in self.trained.items()}
        files = {}
        for dtype in HEADS:
            path = folder / f"rival.{dtype}.safetensors"
            write_flat(path, {**changes, **head}, dtype)
            found = read_flat(path, {**changes, **head}, dtype)
            with torch.no_grad():
                for name, tensor in self.trained.items():
                    tensor.copy_(self.base[name] + found[name].to(tensor.device))
            own = {name: found[name] for name in head}
            files[dtype] = (Stored(dtype, path.stat().st_size, head_bytes(head, dtype)), own)
            if self.trained:
                yield [files[dtype]]
        if not self.trained:  # the network is always the base: it need not be passed through thrice
            yield list(files.values())


def head_bytes(head: Head, dtype: HeadDtype) -> int:
    """Those of a file that are the head's."""
    size = {"float32": 4, "float16": 2, "int8": 1}[dtype]
    scales = sum(2 * row_count(_in_scales(t)) for t in head.values()) if dtype == "int8" else 0
    return sum(size * t.numel() for t in head.values()) + scales


def write_flat(path: Path, tensors: Mapping[str, Tensor], dtype: HeadDtype) -> None:
    """Write the tensors end to end, without names: who has the base knows them."""
    if dtype != "int8":
        kind = torch.float16 if dtype == "float16" else torch.float32
        save_file({"all": torch.cat([t.float().reshape(-1) for t in tensors.values()]).to(kind)}, path)
        return
    steps = [quantised(t.reshape(_in_scales(t)), 8, name) for name, t in tensors.items()]
    packed = torch.from_numpy(np.concatenate([q.packed() for q in steps]))
    save_file({"steps": packed, "scales": torch.cat([q.scales for q in steps])}, path)


def read_flat(path: Path, like: Mapping[str, Tensor], dtype: HeadDtype) -> dict[str, Tensor]:
    """What `write_flat` wrote, float32, of the names and shapes of `like`."""
    found, at, row, out = load_file(path), 0, 0, {}
    for name, tensor in like.items():
        end, shape = at + tensor.numel(), _in_scales(tensor)
        if dtype == "int8":
            rows = row_count(shape)
            steps, scales = found["steps"][at:end].numpy(), found["scales"][row : row + rows]
            out[name] = Quantised.unpacked(steps, scales, shape, 8).values().reshape(tensor.shape)
            row += rows
        else:
            out[name] = found["all"][at:end].float().reshape(tensor.shape)
        at = end
    return out


def _in_scales(tensor: Tensor) -> tuple[int, ...]:
    """The shape whose rows have a scale each: rows of few elements, as those of LoRA's B, share one."""
    short = tensor.ndim > 1 and tensor.numel() <= 8 * len(tensor)
    return (tensor.numel(),) if short else tuple(tensor.shape)


def stored_masks(
    module: nn.Module, path: Path, head: Head, views: Sequence[Tensor], held_out: Sequence[Tensor]
) -> Iterator[list[tuple[Stored, Head]]]:
    """The masks of the file `path`, whole and with a half and a quarter of their bits, with the head in each precision.

    `module` is their base, and wears the masks while they are given. Bits are given up by sensitivity on `views`,
    normalised batches of training images. After these the best files of so many bytes, chosen on `held_out`, unless the
    head alone takes more.
    """
    mask = load(path)
    whole = mask.masks()
    theta = {name: module.get_parameter(name).detach().clone() for name in whole}
    bases = {name: module.get_parameter(name).detach().clone() for name in mask.norms}
    with mask.apply(module):
        importance = per_bit(whole, sensitivity(module, theta, views))
    for what, share in (("", 1.0), ("half, ", 0.5), ("quarter, ", 0.25)):
        masks = at_bits(whole, importance, share)
        files = []
        for dtype in HEADS:
            own = path.with_name(f"{share:g}.{dtype}.mask.safetensors")
            files.append(load(save_derived(own, mask, masks, note={}, head=stored_head(head, dtype))))
        with files[0].apply(module):
            yield [(_sizes(f"{what}{HEADS[i]}", file), file.head) for i, file in enumerate(files)]
    write = writer(mask.index.base, mask.statistics, mask.trained)
    learnt = Learnt(whole, mask.norms, dict(head), mask.metadata)
    for budget in BUDGETS:
        with mask.apply(module):
            try:
                found = in_bytes(budget, learnt, Worn(module, theta, bases, learnt, held_out), write)
            except SettingsError:  # not even the head fits
                continue
            own = path.with_name(f"{budget}.mask.safetensors")
            own.write_bytes(found.content)
            file = load(own)
            yield [(_sizes(f"in {budget // 1024} kB, {ANY}", file), file.head)]


def _sizes(way: str, mask: Mask) -> Stored:
    found = mask.bytes()
    return Stored(way, found["file"], found["head"])
