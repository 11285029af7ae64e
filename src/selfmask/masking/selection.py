"""Which weights are masked: first which parameters, then which weights in them (PAPER §5, Supp. F).

A parameter is chosen by a preset's name, by patterns over its name or by the type of the module that owns it,
by several of these together, or by a function. Within the chosen parameters all weights may be masked, or a
random share, or the share with the largest magnitudes; the others stay on for good.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from selfmask._common.near import near_misses
from selfmask.errors import SelectionError, SettingsError
from selfmask.masking.presets import FAMILIES, detect_family, preset

Chooser = Callable[[str, nn.Parameter], bool]
Entry = str | type[nn.Module]
Select = Entry | Sequence[Entry] | Chooser

_STAGE = re.compile(r"(?:^|\.)(?:layers?|blocks|stages|features|resblocks|encoder\.layer)\.?(\d+)\.")


_ENDS = frozenset(("proj", "text_projection", "logit_scale", "logit_bias"))
"""Parameters that CLIPs hold themselves, and so list before their blocks, though they stand behind them."""


@dataclass(frozen=True)
class RandomShare:
    """A random `share` (in (0, 1]) of the weights of each chosen tensor may be masked.

    >>> RandomShare(0.25).count(1000)
    250
    """

    share: float

    def __post_init__(self) -> None:
        _check_share(self.share, "RandomShare")

    def count(self, total: int) -> int:
        """How many of a tensor's `total` weights may be masked."""
        return _share_count(self.share, total)

    def __call__(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        order = torch.rand(theta.shape, generator=generator, dtype=torch.float64, device="cpu")
        return _top_share(order, self.share).to(theta.device)


@dataclass(frozen=True)
class LargestShare:
    """The `share` (in (0, 1]) of each chosen tensor's weights with the largest magnitudes may be masked.

    >>> LargestShare(0.5)(torch.tensor([0.1, -3.0, 2.0, 0.0]), torch.Generator())
    tensor([False,  True,  True, False])
    """

    share: float

    def __post_init__(self) -> None:
        _check_share(self.share, "LargestShare")

    def count(self, total: int) -> int:
        """How many of a tensor's `total` weights may be masked."""
        return _share_count(self.share, total)

    def __call__(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        return _top_share(theta.detach().abs(), self.share)


@dataclass(frozen=True)
class Selection:
    """What `MaskSet(select=...)` understands, in full.

    Args:
        select: "auto" (the preset of the model's family), a preset's name, a name pattern (shell style, or a
            regular expression after "re:") or a module type; a list or tuple of such entries, which masks what
            any of them chooses, so that ["auto", "*.bias"] adds the biases to the preset; or a function
            (name, parameter) -> bool.
        share: of the weights, `RandomShare`, `LargestShare`, or None for all weights.
        stages: only the first so many stages of the network ("L1", "L1 + L2", … of Supp. F), or None for all.
            What stands before the first stage (a stem) belongs to the first, what stands behind it and has no
            stage number (a last convolution, a last norm) to the last.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
    >>> chosen, why = Selection([nn.Conv2d, "1.bias"]).choose(model)
    >>> list(chosen)
    ['0.weight', '0.bias', '1.bias', '2.weight', '2.bias']
    """

    select: Select = "auto"
    share: RandomShare | LargestShare | None = None
    stages: int | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not isinstance(self.share, RandomShare | LargestShare):
            raise SettingsError(
                f"Selection: share is RandomShare(0.5), LargestShare(0.5) or None, got {self.share!r}"
            )
        if self.stages is not None and not (type(self.stages) is int and self.stages >= 1):
            raise SettingsError(f"Selection: stages is a whole number from 1, got {self.stages!r}")

    def choose(self, model: nn.Module) -> tuple[dict[str, nn.Parameter], str]:
        """The chosen parameters by name, in the model's order, and one sentence on why these.

        A tied parameter, or one of a shared module, has several names: it is chosen by any of them, but by a preset
        only if that takes all of them, and goes by the first.

        Raises `SelectionError` where a pattern matches nothing or nothing is left.
        """
        parameters = dict(model.named_parameters(remove_duplicate=False))
        if not parameters:
            raise SelectionError("the model has no parameters, so there is nothing to mask")
        found, why = _names(self.select, model, parameters)
        taken = {id(parameters[name]) for name in found}
        names = [name for name, p in model.named_parameters() if id(p) in taken]
        if self.stages is not None:
            names = _first_stages(names, self.stages, [name for name, _ in model.named_parameters()])
            why += f"; only the first {self.stages} stages"
        if not names:
            raise SelectionError(
                f"the selection {_shown(self.select)} chose none of the model's {len(parameters)} parameters "
                f"({_sample(parameters)}); name some by pattern, for example select='*conv*.weight'"
            )
        chosen = {name: parameters[name] for name in names}
        for name, p in chosen.items():
            if not p.is_floating_point():
                raise SelectionError(f"{name} holds {p.dtype}; only floating-point weights can be masked")
        return chosen, why

    def describe(self) -> dict[str, Any]:
        """The selection as JSON-able data, for the mask file."""
        weights: Any = "all"
        if self.share is not None:
            kind = "random" if isinstance(self.share, RandomShare) else "largest"
            weights = {"kind": kind, "share": self.share.share}
        return {"select": _shown(self.select), "weights": weights, "stages": self.stages}


def _names(select: Select, model: nn.Module, parameters: dict[str, nn.Parameter]) -> tuple[list[str], str]:
    if isinstance(select, str | type):
        return _union([select], model, parameters)
    if isinstance(select, Iterable) and not isinstance(select, nn.Module | Tensor):
        return _union(list(select), model, parameters)
    if not callable(select) or isinstance(select, nn.Module):
        raise SelectionError(f"select is {_EXPECTED}, a list of such, or a function, got {_kind(select)}")
    return [n for n, p in parameters.items() if select(n, p)], f"chosen by {_shown(select)}"


def _union(
    entries: list[Entry], model: nn.Module, parameters: dict[str, nn.Parameter]
) -> tuple[list[str], str]:
    """The names that any entry chooses, and why.

    An error: an entry of another kind, one given twice, one that chooses nothing (but for a type), and a
    parameter that one entry names in full and another chooses too, in whatever order they come.
    """
    for i, entry in enumerate(entries):
        if not isinstance(entry, str | type):
            raise SelectionError(f"select: an entry is {_EXPECTED}, got {_kind(entry)}")
        if entry in entries[:i]:
            what = "pattern" if isinstance(entry, str) else "type"
            raise SelectionError(f"the {what} {_shown(entry)!r} is given twice; name it once")
    if not entries:
        raise SelectionError("no pattern was given; name at least one, for example '*conv*.weight'")
    owners = _owners(model)
    chosen: dict[Entry, list[str]] = {}
    reasons, patterns = [], []
    for entry in entries:
        if isinstance(entry, type):
            chosen[entry] = [n for n in parameters if isinstance(owners[n], entry)]
            reasons.append(f"every parameter of {entry.__name__}")
        elif entry == "auto" or entry in FAMILIES:
            family = preset(detect_family(model) if entry == "auto" else entry, model)
            left = {id(p) for n, p in parameters.items() if not family.chosen(n, p, owners[n])}
            chosen[entry] = [n for n, p in parameters.items() if id(p) not in left]
            reasons.append(f"preset {family.name!r}: {family.why}")
            if not chosen[entry] and len(entries) > 1:
                raise SelectionError(
                    f"the preset {entry!r} chooses none of the model's {len(parameters)} parameters "
                    f"({_sample(parameters)}); leave it out"
                )
        else:
            chosen[entry] = _matching(entry, parameters)
            patterns.append(repr(entry))
    for entry, names in chosen.items():
        if entry in names and sum(entry in others for others in chosen.values()) > 1:
            raise SelectionError(
                f"the parameter {entry!r} is named twice, by itself and by another entry that chooses it too; "
                "leave one of them out"
            )
    if patterns:
        reasons.append("names matching " + ", ".join(patterns))
    found = {n for names in chosen.values() for n in names}
    return [n for n in parameters if n in found], "; and ".join(reasons)


_EXPECTED = "'auto', a preset's name, a name pattern or a module type (nn.Linear)"


def _kind(thing: object) -> str:
    """What was given instead, in a few words: a module's or a tensor's repr may fill pages."""
    return f"{thing!r}" if isinstance(thing, int | float | None) else f"a {type(thing).__name__}"


def _matching(pattern: str, parameters: dict[str, nn.Parameter]) -> list[str]:
    """The names that the pattern matches, at least one."""
    hits = matches(pattern, parameters)
    if not hits:
        near = near_misses(pattern, parameters, 3, 0.5)
        families = near_misses(pattern, ("auto", *FAMILIES), 1)
        hint = f"; did you mean {' or '.join(repr(n) for n in families + near)}?" if families + near else ""
        raise SelectionError(
            f"the pattern {pattern!r} matches none of the {len(parameters)} parameters "
            f"({_sample(parameters)}){hint} Presets are: auto, {', '.join(FAMILIES)}."
        )
    return hits


def matches(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that one shell-style pattern, or a regular expression after "re:", matches in full."""
    if pattern.startswith("re:"):
        try:
            compiled = re.compile(pattern[3:])
        except re.error as error:
            raise SelectionError(f"{pattern!r} is not a regular expression: {error}") from None
        return [n for n in names if compiled.fullmatch(n)]
    return [n for n in names if fnmatch.fnmatchcase(n, pattern)]


def _first_stages(names: list[str], stages: int, order: list[str]) -> list[str]:
    """Those of `names` in the first `stages` of the numbered stages that they have; `order` is the model's.

    A name without a number that the model lists before its first stage (a stem) belongs to the first; any other
    (a last convolution, a last norm) belongs to the last, so it is kept only where all stages are.
    """
    number = {n: int(found.group(1)) if (found := _STAGE.search(n)) else None for n in order}
    present = sorted({k for n in names if (k := number[n]) is not None})
    if not present:
        raise SelectionError(
            "stages: the model's parameter names show no stages (layer1, blocks.0, stages.0, …)"
        )
    if stages > len(present):
        raise SelectionError(f"stages: {stages} were asked for, the selection has {len(present)}")
    if stages == len(present):
        return names
    first = next(i for i, n in enumerate(order) if number[n] is not None)
    stem = {n for n in order[:first] if n.rpartition(".")[2] not in _ENDS}
    kept = set(present[:stages])
    return [n for n in names if n in stem or number[n] in kept]


def _owners(model: nn.Module) -> dict[str, nn.Module]:
    """The module that owns each parameter, by each of the parameter's names."""
    return {
        f"{prefix}.{name}" if prefix else name: module
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name, _ in module.named_parameters(recurse=False, remove_duplicate=False)
    }


def _top_share(values: Tensor, share: float) -> Tensor:
    """The round(share · N) largest of `values`, at least one, as a bool mask; ties go to the earlier position."""
    total = values.numel()
    count = _share_count(share, total)
    order = values.reshape(-1).sort(descending=True, stable=True).indices[:count]
    mask = torch.zeros(total, dtype=torch.bool, device=values.device)
    mask[order] = True
    return mask.view(values.shape)


def _share_count(share: float, total: int) -> int:
    return min(total, max(1, round(share * total)))


def _check_share(share: float, what: str) -> None:
    if not (isinstance(share, int | float) and 0 < share <= 1):
        raise SettingsError(f"{what}: a share is in (0, 1], got {share!r}; 50 % is 0.5")


def _sample(parameters: dict[str, nn.Parameter]) -> str:
    names = list(parameters)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _shown(select: Select) -> str:
    if isinstance(select, str):
        return select
    if isinstance(select, type):
        return select.__name__
    if isinstance(select, Iterable):
        return ", ".join(s.__name__ if isinstance(s, type) else str(s) for s in select)
    return f"function {getattr(select, '__qualname__', type(select).__name__)}"
