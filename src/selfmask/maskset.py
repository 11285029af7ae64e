"""The mask set: a model whose selected weights are θ·M/α, the exact base θ, and the scores that M comes from.

The model keeps ordinary parameters; `MaskSet.optimizer` turns their gradients into score updates and writes the
new weights in place. They are rebuilt from θ every time, so nothing drifts and `remove` is exact.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfmask._common.files import write_atomically
from selfmask._common.units import byte_count
from selfmask.errors import SelectionError, SettingsError
from selfmask.maskfile.architecture import architecture
from selfmask.maskfile.budget import Worn, in_bytes, writer
from selfmask.maskfile.explain import model_name
from selfmask.maskfile.fingerprint import base_tensors, signature
from selfmask.maskfile.quantised import Quantised, quantised
from selfmask.maskfile.saving import HeadDtype, base_of, save_mask, stored_head
from selfmask.maskfile.trade import Learnt
from selfmask.masking import norm, occupancy
from selfmask.masking.beside import Train, trained_beside
from selfmask.masking.densities import check_densities
from selfmask.masking.maskable import check_maskable
from selfmask.masking.masked import MaskedTensor, MaskedTensors
from selfmask.masking.norm import NormStats
from selfmask.masking.norm_weights import norm_weights, without_norms
from selfmask.masking.optimizer import MaskOptimizer
from selfmask.masking.places import places
from selfmask.masking.rules import Rule, Threshold
from selfmask.masking.selection import Select, Selection
from selfmask.masking.status import Status, TensorStatus


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
        train_norms: train the weights and biases of the norm layers too, but for those that `train` names, and mask
            none of them. They have a rate of their own in the optimizer, are saved as differences from the base in a
            byte each (see `round_norms`), and restored by `remove`.

    Raises:
        SelectionError: nothing was chosen, a pattern matches nothing, a parameter is both masked and trained, or one is
            sharded, quantised, parametrised or otherwise not the plain tensor that the network computes with.
        SettingsError: `rule` is no rule, or a top-k whose density has no room for the weights that are always on.
        WrongBaseError: another mask set or an applied mask holds the model's weights, or held what they are a copy of.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> masks = MaskSet(model, select="0.weight", train="2.*")
        >>> optimizer = masks.optimizer(torch.optim.Adam, lr=0.5, trained={"lr": 0.01})
        >>> for _ in range(4):
        ...     model(torch.randn(16, 8)).square().sum().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> masks.steps, masks.density() < 1
        (4, True)
        >>> masks.remove()
    """

    def __init__(
        self,
        model: nn.Module,
        select: Select | Selection = "auto",
        rule: Rule | None = None,
        norm_stats: NormStats = "adapt",
        train: Train | None = None,
        seed: int = 0,
        train_norms: bool = False,
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

        chosen, self.why = self.selection.choose(model)
        norms = norm_weights(model) if train_norms else {}
        if train_norms:
            chosen = without_norms(chosen, norms)
            self.why += "; norm weights are trained beside them"
        trained = {} if train is None else trained_beside(model, train, chosen)
        norms = {name: weight for name, weight in norms.items() if name not in trained}
        with occupancy.taking(model, "a MaskSet") as self._hold:
            self._begin(chosen, trained, norms, seed)
            self.masked.held_by(self._hold)

    def _begin(
        self,
        chosen: Mapping[str, nn.Parameter],
        trained: Mapping[str, nn.Parameter],
        norms: Mapping[str, nn.Parameter],
        seed: int,
    ) -> None:
        """Keep the base, start the scores, freeze what stays as it is."""
        model, share = self.model, self.selection.share
        check_densities(self.rule, chosen, share)
        generator = torch.Generator().manual_seed(seed)
        everywhere = places(model)
        check_maskable(model, {**chosen, **norms}, everywhere)
        tensors: dict[str, MaskedTensor] = {}
        for name, weight in chosen.items():
            theta = weight.detach()
            scores = self.rule.initial_scores(theta, generator)
            maskable = None if share is None else share(theta, generator)
            where = [place for place in everywhere.values() if place.tensor is weight]
            tensors[name] = MaskedTensor(name, weight, where, scores, maskable, self.rule)
        # Nothing raises from here on, so a MaskSet that could not be made leaves the model as it was.
        self._required_grad = [
            (place, place.tensor.requires_grad)
            for place in everywhere.values()
            if isinstance(place.tensor, nn.Parameter)
        ]
        for p in model.parameters():
            p.requires_grad_(False)
        for p in chosen.values():
            p.requires_grad_(True)
        self.masked = MaskedTensors(model, tensors, trained, norms)
        self._rounded: dict[str, Quantised] = {}
        self._rest = {
            name: None if name in self.masked.base else signature(tensor)
            for name, tensor in base_tensors(model).items()
            if name not in tensors
        }
        norm.unfreeze_copies(model)
        self._architecture = architecture(model)
        self._training = model.training
        self._frozen_norms = norm.freeze(model) if self.norm_stats == "frozen" else []
        for tensor in tensors.values():
            if tensor.start_mask is not None:
                tensor.rewrite(0)

    # -- what is masked ---------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """The steps that an optimizer has done: where a schedule of the density stands."""
        return self.masked.steps

    @steps.setter
    def steps(self, steps: int) -> None:
        self.masked.steps = steps

    @property
    def names(self) -> tuple[str, ...]:
        """The masked parameters' names, in the model's order."""
        return tuple(self.masked.tensors)

    @property
    def theta(self) -> dict[str, Tensor]:
        """The exact base weights by name. Not copies: do not write to them."""
        return {name: t.theta for name, t in self.masked.tensors.items()}

    @property
    def scores(self) -> dict[str, Tensor]:
        """The scores by name, float32 (float64 for a float64 base). Not copies; to set them use `set_scores`."""
        return {name: t.scores for name, t in self.masked.tensors.items()}

    def masks(self) -> dict[str, Tensor]:
        """The masks by parameter name: new bool tensors of the parameters' shapes, True where a weight is on."""
        return {name: t.mask(self.steps) for name, t in self.masked.tensors.items()}

    def statistics(self) -> dict[str, Tensor]:
        """Copies of the running means and variances, and of other buffers that move (EvoNorm's), where they differ from
        the base's, by name."""
        kept = self.masked.base.keys() & base_tensors(self.model).keys()
        now = {name: b for name, b in self.model.named_buffers() if name in kept and b.is_floating_point()}
        return {n: b.clone() for n, b in now.items() if not torch.equal(b, self.masked.base[n].to(b.device))}

    def trained(self) -> dict[str, Tensor]:
        """Copies of the parameters that `train` named."""
        return {name: p.detach().clone() for name, p in self.masked.trained.items()}

    def norms(self) -> dict[str, Tensor]:
        """Copies of the norm weights that are trained, by name, as they are now."""
        return {name: p.detach().clone() for name, p in self.masked.norms.items()}

    @torch.no_grad()
    def round_norms(self) -> None:
        """Make the norm weights what a file stores: the base's and a whole number of steps, 127 at most a tensor.

        Do it before you measure: the network is then the one that `save` writes, bit for bit. `save` does it too. A
        second call changes nothing, unless there was a step of the optimizer in between.

        Raises `SettingsError` where they are not finite.
        """
        for name, weight in self.masked.norms.items():
            base = self.masked.base[name].to(weight.device)
            known = self._rounded.get(name)
            if known is not None and torch.equal(known.added_to(base), weight):
                continue
            change = quantised(weight.double() - base.double(), 8, f"the norm weights {name!r}")
            weight.copy_(change.added_to(base) if change.steps.any() else base)
            self._rounded[name] = change

    def rest(self) -> dict[str, Tensor]:
        """Every other tensor of the base's state dict, with the base's values: what a mask file fingerprints."""
        return {
            name: self.masked.base.get(name, tensor)
            for name, tensor in base_tensors(self.model).items()
            if name in self._rest
        }

    def status(self) -> Status:
        """Weights, density and bits flipped since the start, per tensor and in total, and the masks' bytes."""
        rows = []
        for t in self.masked.tensors.values():
            mask = t.mask(self.steps)
            on = int(mask.sum())
            flipped = mask.numel() - on if t.start_mask is None else int((mask != t.start_mask).sum())
            rows.append(TensorStatus(t.name, tuple(t.theta.shape), mask.numel(), on, flipped))
        norms = sum(weight.numel() for weight in self.masked.norms.values())
        return Status(tuple(rows), self.steps, norms)

    def density(self) -> float:
        """The share of the masked weights that is on now, in [0, 1]."""
        total = sum(t.theta.numel() for t in self.masked.tensors.values())
        return sum(float(t.on) for t in self.masked.tensors.values()) / max(total, 1)

    # -- learning ---------------------------------------------------------------------------------------------

    def optimizer(
        self,
        base: type[torch.optim.Optimizer] | None = None,
        *,
        trained: dict[str, Any] | None = None,
        norms: dict[str, Any] | None = None,
        **settings: Any,
    ) -> MaskOptimizer:
        """An optimizer to use in place of the one over `model.parameters()`; the training loop stays as it is.

        Args:
            base: any torch optimizer class, run on the scores; None is SGD, on the fast path where it applies.
            trained: settings of the ordinary parameters that `train` named, `{"lr": 0.1}` say; those that it
                does not name are taken from `settings`.
            norms: settings of the norm weights, with `train_norms`. Their rate is else derived: with Adam and its like
                two thirds of the scores', at most 0.01; with SGD a 500th. They have no weight decay.
            **settings: of the optimizer on the scores: `lr=50, momentum=0.9` are the paper's for ResNets.
        """
        self.masked.check("optimizer")
        return MaskOptimizer(self.masked, base, settings, trained, norms)

    def set_scores(self, scores: Mapping[str, Tensor]) -> None:
        """Take other scores (copied), for all masked tensors, and rewrite the weights from them."""
        self.masked.check("set_scores")
        if set(scores) != set(self.masked.tensors):
            odd = sorted(set(scores) ^ set(self.masked.tensors))[0]
            raise SelectionError(
                f"set_scores: needs scores for exactly the {len(self.masked.tensors)} masked tensors; {odd!r} is "
                f"{'unknown' if odd in scores else 'missing'}"
            )
        for name, t in self.masked.tensors.items():
            if scores[name].shape != t.theta.shape:
                raise SelectionError(
                    f"set_scores: {name} has shape {tuple(t.theta.shape)}, got {tuple(scores[name].shape)}"
                )
            if bool(scores[name].isnan().any()):
                raise SettingsError(
                    f"set_scores: the scores for {name} hold NaN, which is on neither side of a threshold"
                )
        for name, t in self.masked.tensors.items():
            t.scores.copy_(scores[name].detach())
        self.rewrite()

    def rewrite(self) -> None:
        """Write w = θ·M/α for every masked tensor from the scores as they are. The optimizer does this itself."""
        self.masked.rewrite()

    # -- the ends ---------------------------------------------------------------------------------------------

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        head: Mapping[str, Tensor] | None = None,
        head_dtype: HeadDtype | None = None,
        max_bytes: int | str | None = None,
        images: Iterable[Tensor] = (),
        **metadata: Any,
    ) -> Path:
        """Write the mask file: masks, moved statistics, trained parameters, and the base's fingerprints.

        Norm weights that are trained are rounded first (see `round_norms`), so that the file has what the model has.
        `head` holds the tensors of a classifier that belongs to the mask, if it is to be kept, and `head_dtype` rounds
        them: "float16" takes half the bytes, "int8" a quarter, "int4" an eighth. `metadata` (JSON-able: `backbone=`,
        `preprocessing=`, `training=` …) is kept as given; without `backbone=` the name that the model gives itself
        (timm's, transformers') is kept as `base`, which says nothing of where its weights are from. The file appears
        whole or not at all. Returns its path. Warns (`EmptyMaskWarning`) where no weight is off after training.

        With `max_bytes` (10240, "10k") the file takes no more, all included. What is given up is chosen by how far it
        moves the outputs on `images`, batches as the model takes them: metadata, bits of the norm weights and of the
        head, then weights that matter least are on again. The metadata's `budget` says what. The model and the scores
        are then those of the file. Raises `SettingsError` where the least possible takes more, or the rule is a top-k.
        """
        self.masked.check("save", by="values")
        most = None if max_bytes is None else byte_count(max_bytes, "max_bytes")
        if most is None and not (isinstance(images, tuple) and not images):
            raise SettingsError("save: images= is what max_bytes= judges by: give both, or neither")
        if (changed := self._changed()) is not None:
            raise SettingsError(
                f"save: {changed[0]} {changed[1]} since the MaskSet was made, so the file would fit no base; change a "
                "model before its MaskSet is made"
            )
        status = self.status()
        status.warn_if_empty(Path(path).name)
        self.round_norms()
        norms = {name: self._rounded[name] for name in self.masked.norms}
        norms = {name: change for name, change in norms.items() if change.steps.any()}
        # A top-k mask starts with weights off, so the masks alone cannot tell what the training moved.
        flipped = [t.flipped for t in status.tensors]
        named = model_name(self.model)
        told = {
            "rule": self.rule.describe(),
            "selection": self.selection.describe(),
            "flipped": {"steps": self.steps, "bits": flipped},
            **({"base": named} if named is not None and "backbone" not in metadata else {}),
            **metadata,
        }
        if most is not None:
            masks = {name: mask.cpu() for name, mask in self.masks().items()}
            learnt = Learnt(masks, norms, stored_head(head, head_dtype), told)
            return self._save_within(Path(path), most, images, learnt)
        return save_mask(
            path,
            theta=self.theta,
            masks=self.masks(),
            rest=self.rest(),
            architecture=self._architecture,
            statistics=self.statistics(),
            trained=self.trained(),
            norms=norms,
            head=head,
            head_dtype=head_dtype,
            metadata=told,
        )

    def _save_within(self, path: Path, max_bytes: int, images: Iterable[Tensor], learnt: Learnt) -> Path:
        """Write the file of at most `max_bytes`; the model and the scores become what it holds, once it is there."""
        if not isinstance(self.rule, Threshold):
            raise SettingsError(
                "max_bytes turns weights on again, and a top-k has a density of its own: save the whole file, and make "
                "a smaller one of it by selfmask compact --max-bytes"
            )
        trained = self.trained()
        base = base_of(self.theta, self.rest(), trained, self._architecture)
        bases = {name: self.masked.base[name].to(p.device) for name, p in self.masked.norms.items()}
        worn = Worn(self.model, self.theta, bases, learnt, images)
        keep = partial(write_atomically, path)
        found = in_bytes(max_bytes, learnt, worn, writer(base, self.statistics(), trained), keep)
        for name, t in self.masked.tensors.items():
            # Those that are on again, and the one that a rule keeps on where all others are off.
            on = found.learnt.masks[name].to(t.scores.device)
            t.scores[on & (t.scores <= self.rule.mu)] = self.rule.start
        self.rewrite()
        self._rounded = dict(found.learnt.norms)
        return path

    def remove(self) -> None:
        """Make the model the base again, bit for bit: weights, buffers, what requires a gradient, norm modes.

        An optimizer made here refuses to step afterwards.
        """
        self._hold.release(self._restore)

    def _restore(self) -> None:
        self.masked.restore()
        for place, required in self._required_grad:
            if isinstance(place.tensor, nn.Parameter):
                place.tensor.requires_grad_(required)
        now = self.model.training
        norm.thaw(self._frozen_norms, None if now == self._training else now)

    def _changed(self) -> tuple[str, str] | None:
        """A tensor that makes the model another than the base with its masks, and why; None where there is none."""
        now, everywhere = base_tensors(self.model), places(self.model)
        for name in (*self.masked.tensors, *self._rest):
            if name not in now:
                return name, "is not in the model any more"
        for name, t in self.masked.tensors.items():
            if everywhere[name].tensor is not t.weight:
                return name, "belongs to a layer that was replaced"
        for name, known in self._rest.items():
            if known is not None and name not in self.masked.base and signature(now[name]) != known:
                return name, "has changed, though it is neither masked nor named by train="
        for name, _ in self.model.named_parameters():
            if name not in self._rest and name not in self.masked.tensors:
                return name, "was added to the model"
        return None

    def __repr__(self) -> str:
        total, tensors = sum(t.theta.numel() for t in self.masked.tensors.values()), len(self.masked.tensors)
        return f"MaskSet({tensors} tensors, {total:,} weights, {100 * self.density():.2f} % on; {self.why})"
