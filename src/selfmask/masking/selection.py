"""Which weights are masked: first which parameters, then which weights in them (PAPER §5, Supp. F).

A parameter is chosen by a preset's name, by patterns over its name, by the type of the module that owns it, or
by a function. Within the chosen parameters all weights may be masked, or a random share, or the share with the
largest magnitudes; the others stay on for good.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from selfmask.errors import SelectionError, SettingsError
from selfmask.masking.presets import FAMILIES, detect_family, preset

Chooser = Callable[[str, nn.Parameter], bool]
Select = str | Sequence[str] | type[nn.Module] | tuple[type[nn.Module], ...] | Chooser

_STAGE = re.compile(r"(?:^|\.)(?:layers?|blocks|stages|features|resblocks|encoder\.layer)\.?(\d+)\.")


@dataclass(frozen=True)
class RandomShare:
    """A random `share` (in (0, 1]) of the weights of each chosen tensor may be masked."""

    share: float

    def __post_init__(self) -> None:
        _check_share(self.share, "RandomShare")

    def __call__(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        order = torch.rand(theta.shape, generator=generator, dtype=torch.float64)
        return _top_share(order, self.share).to(theta.device)


@dataclass(frozen=True)
class LargestShare:
    """The `share` (in (0, 1]) of each chosen tensor's weights with the largest magnitudes may be masked.

    Masks learnt under it compress better, since the reader of a mask file knows which weights these are.
    """

    share: float

    def __post_init__(self) -> None:
        _check_share(self.share, "LargestShare")

    def __call__(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        return _top_share(theta.detach().abs(), self.share)


@dataclass(frozen=True)
class Selection:
    """What `MaskSet(select=...)` understands, in full.

    Args:
        select: "auto" (the preset of the model's family), a preset's name, one name pattern or several (shell
            style, or a regular expression after "re:"), a module type or a tuple of them, or a function
            (name, parameter) -> bool.
        weights: `RandomShare`, `LargestShare`, or None for all weights.
        stages: only the first so many stages of the network ("L1", "L1 + L2", … of Supp. F), or None for all.
    """

    select: Select = "auto"
    weights: RandomShare | LargestShare | None = None
    stages: int | None = None

    def __post_init__(self) -> None:
        if self.stages is not None and self.stages < 1:
            raise SettingsError(f"Selection: stages counts from 1, got {self.stages}")

    def choose(self, model: nn.Module) -> tuple[dict[str, nn.Parameter], str]:
        """The chosen parameters by name, in the model's order, and one sentence on why these.

        Raises `SelectionError` where a pattern matches nothing or nothing is left.
        """
        parameters = dict(model.named_parameters())
        if not parameters:
            raise SelectionError("the model has no parameters, so there is nothing to mask")
        names, why = _names(self.select, model, parameters)
        if self.stages is not None:
            names = _first_stages(names, self.stages)
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
        if self.weights is not None:
            kind = "random" if isinstance(self.weights, RandomShare) else "largest"
            weights = {"kind": kind, "share": self.weights.share}
        return {"select": _shown(self.select), "weights": weights, "stages": self.stages}


def _names(select: Select, model: nn.Module, parameters: dict[str, nn.Parameter]) -> tuple[list[str], str]:
    if isinstance(select, str) and (select == "auto" or select in FAMILIES):
        family = detect_family(model) if select == "auto" else select
        chosen = preset(family, model)
        owners = _owners(model)
        names = [n for n, p in parameters.items() if chosen.chosen(n, p, owners[n])]
        return names, f"preset {chosen.name!r}: {chosen.why}"
    if isinstance(select, type) or (isinstance(select, tuple) and all(isinstance(t, type) for t in select)):
        kinds = select if isinstance(select, tuple) else (select,)
        owners = _owners(model)
        names = [n for n in parameters if isinstance(owners[n], kinds)]  # pyright: ignore[reportArgumentType]
        return names, f"every parameter of {_shown(select)}"
    if isinstance(select, str):
        return _matching([select], parameters), f"names matching {select!r}"
    if isinstance(select, Iterable):
        patterns = [str(s) for s in select]
        return _matching(patterns, parameters), "names matching " + ", ".join(repr(s) for s in patterns)
    return [n for n, p in parameters.items() if select(n, p)], f"chosen by {_shown(select)}"


def _matching(patterns: Sequence[str], parameters: dict[str, nn.Parameter]) -> list[str]:
    """The names that any pattern matches; a pattern without a match, or given twice, is an error."""
    if not patterns:
        raise SelectionError("no pattern was given; name at least one, for example '*conv*.weight'")
    found: set[str] = set()
    for i, pattern in enumerate(patterns):
        if pattern in patterns[:i]:
            raise SelectionError(f"the pattern {pattern!r} is given twice; name it once")
        hits = matches(pattern, parameters)
        exact = [h for h in hits if h == pattern]
        if exact and pattern in found:
            raise SelectionError(
                f"the parameter {pattern!r} is named twice, by itself and by an earlier pattern"
            )
        if not hits:
            near = difflib.get_close_matches(pattern, list(parameters), n=3, cutoff=0.5)
            families = difflib.get_close_matches(pattern, FAMILIES, n=1, cutoff=0.6)
            hint = (
                f"; did you mean {' or '.join(repr(n) for n in families + near)}?" if families + near else ""
            )
            raise SelectionError(
                f"the pattern {pattern!r} matches none of the {len(parameters)} parameters "
                f"({_sample(parameters)}){hint} Presets are: auto, {', '.join(FAMILIES)}."
            )
        found.update(hits)
    return [n for n in parameters if n in found]


def matches(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that one shell-style pattern, or a regular expression after "re:", matches in full."""
    if pattern.startswith("re:"):
        try:
            compiled = re.compile(pattern[3:])
        except re.error as error:
            raise SelectionError(f"{pattern!r} is not a regular expression: {error}") from None
        return [n for n in names if compiled.fullmatch(n)]
    return [n for n in names if fnmatch.fnmatchcase(n, pattern)]


def _first_stages(names: list[str], stages: int) -> list[str]:
    """Those of `names` in the first `stages` numbered stages; what stands before them (a stem) belongs to the first."""
    number = {n: int(found.group(1)) if (found := _STAGE.search(n)) else None for n in names}
    present = sorted({k for k in number.values() if k is not None})
    if not present:
        raise SelectionError(
            "stages: the model's parameter names show no stages (layer1, blocks.0, stages.0, …)"
        )
    if stages > len(present):
        raise SelectionError(f"stages: {stages} were asked for, the selection has {len(present)}")
    kept = set(present[:stages])
    return [n for n in names if number[n] is None or number[n] in kept]


def _owners(model: nn.Module) -> dict[str, nn.Module]:
    """The module that owns each parameter, by the parameter's name."""
    return {
        f"{prefix}.{name}" if prefix else name: module
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }


def _top_share(values: Tensor, share: float) -> Tensor:
    """The round(share · N) largest of `values`, at least one, as a bool mask; ties go to the earlier position."""
    total = values.numel()
    count = min(total, max(1, round(share * total)))
    order = values.reshape(-1).sort(descending=True, stable=True).indices[:count]
    mask = torch.zeros(total, dtype=torch.bool, device=values.device)
    mask[order] = True
    return mask.view(values.shape)


def _check_share(share: float, what: str) -> None:
    if not 0 < share <= 1:
        raise SettingsError(f"{what}: a share is in (0, 1], got {share}; 50 % is 0.5")


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
