"""What an optimizer moves: one masked tensor (w, θ, scores, mask), and all those of a model.

The model keeps ordinary parameters w = θ·M/α. They are rebuilt from the exact base θ every time, so nothing drifts.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from selfmask.errors import SettingsError
from selfmask.masking.gradient import same_layout
from selfmask.masking.occupancy import Hold
from selfmask.masking.places import Kept, Place, forget_casts, put_back
from selfmask.masking.rules import Progressive, Rule, Threshold, TopK
from selfmask.masking.weight import masked_weight, scale

Looked = Literal["writes", "values"]
"""How a weight is looked at: whether it was written since, which costs nothing, or at each value of it."""


class MaskedTensor:
    """One selected parameter: its weight w in the model, its base θ, its scores S, and how many bits are on.

    `on` (Σ M) and `factor` (1/α) describe the weight as it now stands in the model. On the CPU they are numbers;
    on an accelerator 0-dim float64 tensors, so that they are never waited for.
    """

    def __init__(
        self,
        name: str,
        weight: nn.Parameter,
        where: Sequence[Place],
        scores: Tensor,
        maskable: Tensor | None,
        rule: Rule,
    ) -> None:
        self.name = name
        self.weight = weight
        self.where = tuple(where)
        self.theta = weight.detach().clone()
        self.scores = scores
        self.maskable = maskable
        self.rule = rule
        self.scheduled = isinstance(rule, TopK) and isinstance(rule.density, Progressive)
        first = self.mask(0)
        self.start_mask = None if bool(first.all()) else first
        self.on: float | Tensor = weight.numel()
        self.factor: float | Tensor = 1.0
        self._written = _seen(weight)

    def mask(self, step: int) -> Tensor:
        """M from the scores as they are: bool, of θ's shape, on θ's device."""
        if self.maskable is None:
            return self.rule.mask(self.scores, self.name, step)
        # What may not be masked is always on: it counts as scored above everything else, and top-k, whose
        # densities leave room for all of it, counts it in.
        pinned = self.scores.masked_fill(~self.maskable, torch.inf)
        return self.rule.mask(pinned, self.name, step) | ~self.maskable

    def stands(self, step: int, by: Looked) -> bool:
        """Whether the weight is what was last written, or has its values: nobody has loaded others over it."""
        if by == "values" or _seen(self.weight) != self._written:
            self.follow()
            if not torch.equal(self.weight.detach(), masked_weight(self.theta, self.mask(step))):
                return False
            self._written = _seen(self.weight)
        return True

    def follow(self) -> None:
        """Move θ and the scores to where the user has moved the weight: another device, another memory format."""
        self.theta = laid_out_as(self.theta, self.weight)
        self.scores = laid_out_as(self.scores, self.weight)
        if self.maskable is not None:
            self.maskable = laid_out_as(self.maskable, self.weight)
        if self.start_mask is not None:
            self.start_mask = laid_out_as(self.start_mask, self.weight)

    def rewrite(self, step: int) -> None:
        """w = θ·M/α in place (PAPER Main Eq. 1)."""
        total = self.theta.numel()
        if total == 0:
            return
        self._write(self.weight.detach(), step)
        self._written = _seen(self.weight)

    def _write(self, weight: Tensor, step: int) -> None:
        total = self.theta.numel()
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


class MaskedTensors:
    """All masked tensors of a model by name, what is trained beside them, and the steps done.

    Args:
        model: the network that they belong to.
        tensors: the masked ones, by the first of each one's names.
        trained: ordinary parameters by name.
        norms: weights of norm layers by name.
    """

    def __init__(
        self,
        model: nn.Module,
        tensors: Mapping[str, MaskedTensor],
        trained: Mapping[str, nn.Parameter],
        norms: Mapping[str, nn.Parameter],
    ) -> None:
        self.tensors = dict(tensors)
        self.norms = dict(norms)
        self.trained: dict[str, nn.Parameter] = {}
        self.steps = 0
        self._model = model
        self.live = True
        self._base = Kept(model, [name for name, _ in model.named_buffers(remove_duplicate=False)])
        self._base.keep(model, norms)
        for parameter in norms.values():
            parameter.requires_grad_(True)
        for parameter in trained.values():
            self.train(parameter)

    @property
    def base(self) -> dict[str, Tensor]:
        """The base's buffers and the base values of what is trained, by name."""
        return self._base.values

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the base weights under the masks: a checkpoint of scores belongs to these."""
        digest = hashlib.blake2b(digest_size=16)
        for name, t in self.tensors.items():
            digest.update(f"{name} {t.theta.dtype} {tuple(t.theta.shape)}".encode())
            if t.theta.numel():
                digest.update(t.theta.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def beside(self) -> dict[str, nn.Parameter]:
        """All that is trained beside the masks, by name."""
        return self.trained | self.norms

    def train(self, parameter: nn.Parameter) -> bool:
        """Train an ordinary parameter beside the masks; False, with nothing done, where it is none of the model's."""
        name = next((n for n, p in self._model.named_parameters() if p is parameter), None)
        if name is None:
            return False
        self._base.keep(self._model, [name])
        parameter.requires_grad_(True)
        self.trained[name] = parameter
        return True

    def check(self, what: str, *, by: Looked | None = None) -> None:
        """Raises `SettingsError` where `what` would go wrong unseen: the model is not what is moved here any more, or
        its weights, looked at as `by` says, are not those that were written."""
        if not self.live:
            raise SettingsError(f"{what}: this MaskSet was removed from its model; make a new one")
        for t in self.tensors.values():
            if any(place.tensor is not t.weight for place in t.where):
                raise SettingsError(_another(what, t.name))
            if t.weight.dtype != t.theta.dtype:
                was, now = (str(d).removeprefix("torch.") for d in (t.theta.dtype, t.weight.dtype))
                raise SettingsError(
                    f"{what}: {t.name} was cast from {was} to {now} after the MaskSet was made, so its mask would fit "
                    f"no base; cast the model first, or train under torch.autocast"
                )
            if by is not None and not t.stands(self.steps, by):
                raise SettingsError(
                    f"{what}: other weights were written over {t.name} after the MaskSet was made, and would be lost. "
                    "Load weights before you make the MaskSet; where it is a checkpoint's, load the optimizer's state "
                    "after the model's"
                )
        for name, parameter in self.beside.items():
            if any(place.tensor is not parameter for place in self._base.where(name)):
                raise SettingsError(_another(what, name))

    @torch.no_grad()
    def rewrite(self) -> None:
        """Write w = θ·M/α for every tensor, from the scores as they are."""
        self.check("rewrite")
        for t in self.tensors.values():
            t.follow()
            t.rewrite(self.steps)
        forget_casts()

    def held_by(self, hold: Hold) -> None:
        """Have `hold` hold the model for these, which it must not keep alive."""
        where = {n: t.where for n, t in self.tensors.items()} | {n: self._base.where(n) for n in self.norms}
        me = weakref.ref(self)
        # Of one that is gone its zeros tell, those that the base has itself left out.
        zeros = {name: int((t.theta == 0).sum()) for name, t in self.tensors.items()}
        hold.keep(
            where,
            lambda: hold.with_zeros(zeros) if (still := me()) is None else still.changed(),
            self.norms,
        )

    def changed(self) -> list[str]:
        """The names of the tensors that are not the base's now: those with weights off, and norm weights that moved."""
        off = [name for name, t in self.tensors.items() if float(t.on) < t.theta.numel()]
        norms = self.norms.items()
        return off + [name for name, p in norms if not torch.equal(p.detach().cpu(), self.base[name].cpu())]

    def restore(self) -> None:
        """Make weights, what was trained, and buffers the base's again, bit for bit. Ends all work on them."""
        for t in self.tensors.values():
            for place in t.where:
                put_back(place, t.theta)
            t.weight.grad = None
        self._base.restore()
        self.live = False


def _seen(tensor: Tensor) -> tuple[int, int]:
    """How often it was written in place (tensors made in inference mode do not count it, and nobody counts what is
    written through `.data`), and where it lies."""
    return 0 if tensor.is_inference() else tensor._version, tensor.data_ptr()


def _another(what: str, name: str) -> str:
    return (
        f"{what}: {name} is another parameter than when the MaskSet was made (load_state_dict(assign=True) makes new "
        "ones), so what is learnt would not reach the model; load without assign, or make the MaskSet afterwards"
    )


def laid_out_as(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor` on the device and in the memory order of `model`, copied only if it is not so already."""
    if tensor.device == model.device and (tensor.stride() == model.stride() or same_layout(tensor, model)):
        return tensor
    return torch.empty_like(model, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
