"""The mask set: a model whose selected weights are θ·M/α, the exact base θ, and the scores that M comes from.

The model keeps ordinary parameters; `MaskSet.optimizer` turns their gradients into score updates and writes the
new weights in place. They are rebuilt from θ every time, so nothing drifts and `remove` is exact.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from selfmask._common.near import did_you_mean
from selfmask.errors import SelectionError, SettingsError, WrongBaseError
from selfmask.masking import norm, occupancy
from selfmask.masking.densities import check_densities
from selfmask.masking.layout import like
from selfmask.masking.optimizer import MaskOptimizer
from selfmask.masking.rules import Rule, Threshold
from selfmask.masking.selection import Select, Selection, matches
from selfmask.masking.status import Status, TensorStatus
from selfmask.masking.weight import masked_weight, scale

Coding = Literal["auto", "alone", "base", "packed"]
HeadDtype = Literal["float32", "float16"]
NormStats = Literal["adapt", "frozen"]
Train = str | Sequence[str] | Callable[[str, nn.Parameter], bool]


class MaskedTensor:
    """One selected parameter: its weight w in the model, its base θ, its scores S, and how many bits are on.

    `on` (Σ M) and `factor` (1/α) describe the weight as it now stands in the model. On the CPU they are numbers;
    on an accelerator 0-dim float64 tensors, so that a step never waits for the device.
    """

    def __init__(
        self, name: str, weight: nn.Parameter, scores: Tensor, maskable: Tensor | None, rule: Rule
    ) -> None:
        self.name = name
        self.weight = weight
        self.theta = weight.detach().clone()
        self.scores = scores
        self.maskable = maskable
        self.rule = rule
        first = self.mask(0)
        self.start_mask = None if bool(first.all()) else first
        self.on: float | Tensor = weight.numel()
        self.factor: float | Tensor = 1.0

    def mask(self, step: int) -> Tensor:
        """M from the scores as they are: bool, of θ's shape, on θ's device."""
        if self.maskable is None:
            return self.rule.mask(self.scores, self.name, step)
        # What may not be masked is always on: it counts as scored above everything else, and top-k, whose
        # densities leave room for all of it, counts it in.
        pinned = self.scores.masked_fill(~self.maskable, torch.inf)
        return self.rule.mask(pinned, self.name, step) | ~self.maskable

    def follow(self) -> None:
        """Move θ and the scores to where the user has moved the weight: another device, another memory format."""
        self.theta = like(self.theta, self.weight)
        self.scores = like(self.scores, self.weight)
        if self.maskable is not None:
            self.maskable = like(self.maskable, self.weight)
        if self.start_mask is not None:
            self.start_mask = like(self.start_mask, self.weight)

    def rewrite(self, step: int) -> None:
        """w = θ·M/α in place (PAPER Main Eq. 1)."""
        total = self.theta.numel()
        if total == 0:
            return
        weight = self.weight.detach()
        if self.theta.device.type != "cpu":
            self._rewrite_on_device(weight, step)
            return
        if (
            isinstance(self.rule, Threshold)
            and self.maskable is None
            and self.theta.dtype == self.scores.dtype
        ):
            on = int(np.count_nonzero((self.scores > self.rule.mu).numpy()))
            if on > 0:
                # The same bits as masked_weight gives, in two passes: threshold_backward(x, S, μ) is x where
                # S > μ and +0 elsewhere, and several times faster here than a fill under a mask.
                self.on, self.factor = on, scale(on, total)
                torch.mul(self.theta, self.factor, out=weight)
                torch.ops.aten.threshold_backward.grad_input(
                    weight, self.scores, self.rule.mu, grad_input=weight
                )
                return
        mask = self.mask(step)
        self.on = int(np.count_nonzero(mask.numpy()))
        self.factor = scale(self.on, total)
        weight.copy_(masked_weight(self.theta, mask, self.factor))

    def _rewrite_on_device(self, weight: Tensor, step: int) -> None:
        mask = self.mask(step)
        self.on = mask.sum().to(torch.float64)
        self.factor = (self.theta.numel() / self.on).sqrt()
        wide = torch.promote_types(self.theta.dtype, torch.float32)
        product = (self.theta.to(wide) * self.factor.to(wide)).to(self.theta.dtype)
        weight.copy_(product.masked_fill_(~mask, 0.0))


class MaskSet:
    """Freezes `model`, keeps the exact base of the selected weights, and holds a score for each of them.

    Args:
        model: any module. Its selected parameters stay ordinary parameters that require a gradient; all others
            are frozen, but for those that `train` names.
        select: which weights are masked: "auto", a preset's name, name patterns, module types, a function
            (name, parameter) -> bool, or a `Selection` (see `selfmask.masking.selection`).
        rule: how scores become a mask; `Threshold()` is the paper's.
        norm_stats: "adapt", the running statistics of the batch norms move in training mode as in the paper and
            are part of what is saved; "frozen", batch norms stay in evaluation mode.
        train: pattern(s) or a function naming ordinary parameters to train beside the masks, a new head say.
            They are saved too, and restored by `remove`.
        seed: of random scores and random shares; equal on every machine.

    Raises:
        SelectionError: nothing was chosen, a pattern matches nothing, or a parameter is both masked and trained.
        SettingsError: `rule` is no rule, or a top-k whose density has no room for the weights that are always on.
        WrongBaseError: another mask set or an applied mask holds the model's weights.
    """

    def __init__(
        self,
        model: nn.Module,
        select: Select | Selection = "auto",
        rule: Rule | None = None,
        norm_stats: NormStats = "adapt",
        train: Train | None = None,
        seed: int = 0,
    ) -> None:
        if norm_stats not in ("adapt", "frozen"):
            raise SettingsError(f"norm_stats is 'adapt' or 'frozen', got {norm_stats!r}")
        if rule is not None and (isinstance(rule, type) or not isinstance(rule, Rule)):
            got = (
                f"the class {rule.__name__}; make one by {rule.__name__}(…)"
                if isinstance(rule, type)
                else repr(rule)
            )
            raise SettingsError(
                f"rule is a rule, such as Threshold(), TopK(0.5) or TopK(Progressive(end=0.9, steps=500)), got {got}"
            )
        self.model = model
        self.rule: Rule = Threshold() if rule is None else rule
        self.selection = select if isinstance(select, Selection) else Selection(select)
        self.norm_stats: NormStats = norm_stats
        self.steps = 0

        chosen, self.why = self.selection.choose(model)
        trained = {} if train is None else _trained(model, train, chosen)
        if (holder := occupancy.occupant(model)) is not None:
            raise WrongBaseError(occupancy.held(holder))
        check_densities(self.rule, chosen, self.selection.weights)
        generator = torch.Generator().manual_seed(seed)
        self._tensors: dict[str, MaskedTensor] = {}
        for name, weight in chosen.items():
            theta = weight.detach()
            scores = self.rule.initial_scores(theta, generator)
            weights = self.selection.weights
            maskable = None if weights is None else weights(theta, generator)
            self._tensors[name] = MaskedTensor(name, weight, scores, maskable, self.rule)
        # Nothing raises from here on, so a MaskSet that could not be made leaves the model as it was.
        occupancy.occupy(model, "a MaskSet")
        self._trained = trained
        self._trained_base = {name: p.detach().clone() for name, p in trained.items()}
        self._buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        self._required_grad = {p: p.requires_grad for p in model.parameters()}
        for p in model.parameters():
            p.requires_grad_(False)
        for p in (*chosen.values(), *trained.values()):
            p.requires_grad_(True)
        self._frozen_norms = norm.freeze(model) if norm_stats == "frozen" else []
        self._live = True
        for tensor in self._tensors.values():
            if tensor.start_mask is not None:
                tensor.rewrite(0)

    # -- what is masked ---------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The masked parameters' names, in the model's order."""
        return tuple(self._tensors)

    @property
    def theta(self) -> dict[str, Tensor]:
        """The exact base weights by name. Not copies: do not write to them."""
        return {name: t.theta for name, t in self._tensors.items()}

    @property
    def scores(self) -> dict[str, Tensor]:
        """The scores by name, float32 (float64 for a float64 base). Not copies; to set them use `set_scores`."""
        return {name: t.scores for name, t in self._tensors.items()}

    def masks(self) -> dict[str, Tensor]:
        """The masks by parameter name: new bool tensors of the parameters' shapes, True where a weight is on."""
        return {name: t.mask(self.steps) for name, t in self._tensors.items()}

    def statistics(self) -> dict[str, Tensor]:
        """Copies of the running means and variances by name, those that differ from the base's."""
        current = norm.running_statistics(self.model)
        return {
            name: tensor.detach().clone()
            for name, tensor in current.items()
            if not torch.equal(tensor, self._buffers[name].to(tensor.device))
        }

    def trained(self) -> dict[str, Tensor]:
        """Copies of the parameters that `train` named."""
        return {name: p.detach().clone() for name, p in self._trained.items()}

    def rest(self) -> dict[str, Tensor]:
        """Every other tensor of the base's state dict, with the base's values: what a mask file fingerprints."""
        known = self._buffers | self._trained_base
        return {
            name: known[name] if name in known else value.detach()
            for name, value in self.model.state_dict().items()
            if name not in self._tensors
        }

    def status(self) -> Status:
        """Weights, density and bits flipped since the start, per tensor and in total, and the masks' bytes."""
        rows = []
        for t in self._tensors.values():
            mask = t.mask(self.steps)
            on = int(mask.sum())
            flipped = mask.numel() - on if t.start_mask is None else int((mask != t.start_mask).sum())
            rows.append(TensorStatus(t.name, tuple(t.theta.shape), mask.numel(), on, flipped))
        return Status(tuple(rows), self.steps)

    def density(self) -> float:
        """The share of the masked weights that is on now, in [0, 1]."""
        total = sum(t.theta.numel() for t in self._tensors.values())
        return sum(float(t.on) for t in self._tensors.values()) / max(total, 1)

    # -- learning ---------------------------------------------------------------------------------------------

    def optimizer(
        self,
        base: type[torch.optim.Optimizer] | None = None,
        *,
        trained: dict[str, Any] | None = None,
        **settings: Any,
    ) -> MaskOptimizer:
        """An optimizer to use in place of the one over `model.parameters()`; the training loop stays as it is.

        Args:
            base: any torch optimizer class, run on the scores; None is SGD, on the fast path where it applies.
            trained: settings of the ordinary parameters that `train` named, `{"lr": 0.1}` say; those that it
                does not name are taken from `settings`.
            **settings: of the optimizer on the scores: `lr=50, momentum=0.9` are the paper's for ResNets.
        """
        self._check_live("optimizer")
        return MaskOptimizer(self, base, settings, trained)

    def set_scores(self, scores: Mapping[str, Tensor]) -> None:
        """Take other scores (copied), for all masked tensors, and rewrite the weights from them."""
        self._check_live("set_scores")
        if set(scores) != set(self._tensors):
            odd = sorted(set(scores) ^ set(self._tensors))[0]
            raise SelectionError(
                f"set_scores: needs scores for exactly the {len(self._tensors)} masked tensors; {odd!r} is "
                f"{'unknown' if odd in scores else 'missing'}"
            )
        for name, t in self._tensors.items():
            if scores[name].shape != t.theta.shape:
                raise SelectionError(
                    f"set_scores: {name} has shape {tuple(t.theta.shape)}, got {tuple(scores[name].shape)}"
                )
        for name, t in self._tensors.items():
            t.scores.copy_(scores[name])
        self.rewrite()

    @torch.no_grad()
    def rewrite(self) -> None:
        """Write w = θ·M/α for every masked tensor from the scores as they are. The optimizer does this itself."""
        for t in self._tensors.values():
            t.rewrite(self.steps)

    def tensors(self) -> tuple[MaskedTensor, ...]:
        """The masked tensors, for the optimizer."""
        return tuple(self._tensors.values())

    def trained_parameters(self) -> tuple[nn.Parameter, ...]:
        """The ordinary parameters that are trained beside the masks, for the optimizer."""
        return tuple(self._trained.values())

    # -- the ends ---------------------------------------------------------------------------------------------

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        coding: Coding = "auto",
        head: Mapping[str, Tensor] | None = None,
        head_dtype: HeadDtype | None = None,
        **metadata: Any,
    ) -> Path:
        """Write the mask file: masks, moved statistics, trained parameters, and the base's fingerprints.

        `head` holds the tensors of a classifier that belongs to the mask, if it is to be kept, and
        `head_dtype` rounds them: "float16" halves their bytes. `metadata` (JSON-able: `backbone=`, `preprocessing=`,
        `training=` …) is kept as given. `coding` ("auto", "alone", "base", "packed") is explained at `save_mask`;
        what "base" writes can be read only beside the base. The file appears whole or not at all. Returns its path.
        """
        self._check_live("save")
        # The one door that opens upward, and only when called: masking knows nothing of files.
        from selfmask.maskfile.saving import save_mask

        # A top-k mask starts with weights off, so the masks alone cannot tell what the training moved.
        flipped = [t.flipped for t in self.status().tensors]
        return save_mask(
            path,
            theta=self.theta,
            masks=self.masks(),
            rest=self.rest(),
            statistics=self.statistics(),
            trained=self.trained(),
            head=head,
            head_dtype=head_dtype,
            metadata={
                "rule": self.rule.describe(),
                "selection": self.selection.describe(),
                "flipped": {"steps": self.steps, "bits": flipped},
                **metadata,
            },
            coding=coding,
        )

    @torch.no_grad()
    def remove(self) -> None:
        """Make the model the base again, bit for bit: weights, buffers, what requires a gradient, norm modes."""
        if not self._live:
            return
        for t in self._tensors.values():
            t.weight.copy_(t.theta)
        for name, p in self._trained.items():
            p.copy_(self._trained_base[name])
        for name, buffer in self.model.named_buffers():
            if name in self._buffers:
                buffer.copy_(self._buffers[name])
        for p, required in self._required_grad.items():
            p.requires_grad_(required)
        for t in self._tensors.values():
            t.weight.grad = None
        norm.thaw(self._frozen_norms)
        occupancy.vacate(self.model)
        self._live = False

    def _check_live(self, what: str) -> None:
        if not self._live:
            raise SettingsError(f"{what}: this MaskSet was removed from its model; make a new one")

    def __repr__(self) -> str:
        total = sum(t.theta.numel() for t in self._tensors.values())
        return f"MaskSet({len(self._tensors)} tensors, {total:,} weights, {100 * self.density():.2f} % on; {self.why})"


def _trained(model: nn.Module, train: Train, chosen: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """The parameters that `train` names; an error if there are none, or if one is masked as well."""
    parameters = dict(model.named_parameters())
    if callable(train):
        names = [n for n, p in parameters.items() if train(n, p)]
    else:
        patterns = [train] if isinstance(train, str) else list(train)
        hits = {pattern: matches(pattern, parameters) for pattern in patterns}
        for pattern, found in hits.items():
            if not found:
                raise SelectionError(
                    f"train: {pattern!r} names none of the model's {len(parameters)} parameters"
                    f"{did_you_mean(pattern, parameters)}"
                )
        names = [n for found in hits.values() for n in found]
    if not names:
        raise SelectionError(f"train: {train!r} names none of the model's {len(parameters)} parameters")
    for name in names:
        if name in chosen:
            raise SelectionError(
                f"train: {name!r} is masked as well; a parameter is either masked or trained"
            )
    return {n: parameters[n] for n in dict.fromkeys(names)}
