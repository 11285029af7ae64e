"""The mask optimizer: a torch optimizer over the model's masked weights that moves their scores instead.

After `loss.backward()` a step does, for each masked tensor: ∂L/∂w → ∂L/∂M (PAPER Main Eq. 2), any torch
optimizer's update on the scores, and the new w = θ·M/α in place. Its `param_groups` hold the model's own
parameters, so gradient clipping, loss scaling, `zero_grad` and learning-rate schedulers find what they expect;
its `state_dict` holds the scores, so a checkpoint of model and optimizer is complete.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any, overload

import torch
from torch import Tensor

from selfmask._common.near import did_you_mean
from selfmask.errors import DivergedError, SettingsError
from selfmask.masking.gradient import flat, same_layout, score_gradient, shared_term
from selfmask.masking.masked import MaskedTensor, MaskedTensors, laid_out_as
from selfmask.masking.norm_weights import norm_rate
from selfmask.masking.places import forget_casts

PATIENCE = 5
"""Steps in a row for which a gradient that is not finite is borne with: a spike is, a broken run is not."""

_OWN = ("_masked", "_tensors", "_inner", "skipped", "_in_a_row", "_ready")
_STEPS, _BASE = "mask_steps", "mask_base"  # what a state dict has beside torch's own, in its first group


class MaskOptimizer(torch.optim.Optimizer):
    """Made by `MaskSet.optimizer`.

    Group 0 holds the masked weights; then come those that are trained as they are, and the weights of norm layers,
    each in a group of its own where there are some.
    """

    def __init__(
        self,
        masked: MaskedTensors,
        base: type[torch.optim.Optimizer] | None,
        settings: dict[str, Any],
        trained: dict[str, Any] | None,
        norms: dict[str, Any] | None,
    ) -> None:
        cls: Any = torch.optim.SGD if base is None else base
        if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
            raise SettingsError(
                f"optimizer: the class itself, torch.optim.Adam say, with its settings as arguments, got {_told(base)}"
            )
        if "lr" not in settings and cls is torch.optim.SGD:
            raise SettingsError(
                "optimizer: SGD on the scores needs lr=…; the paper's is 50 for ResNets, 10 for ViTs"
            )
        if not math.isfinite(float(settings.get("lr", 0.0))):
            raise SettingsError(f"optimizer: lr is a finite rate, got {settings['lr']}")
        closure = signature(cls.step).parameters.get("closure")
        if closure is not None and closure.default is Parameter.empty:
            raise SettingsError(
                f"optimizer: {cls.__name__} needs a closure to pass through the model several times a step, and the "
                "weights follow the scores only after a step; take torch.optim.SGD, Adam or another that steps once"
            )
        parameters = list(masked.trained.values())
        if trained and not parameters:
            raise SettingsError(
                "optimizer: trained= has settings, but the MaskSet trains no parameters; see train="
            )
        if parameters and not trained:
            raise SettingsError(
                "optimizer: the MaskSet also trains ordinary parameters, whose rate is not that of scores; give "
                "their settings, for example trained={'lr': 0.1}"
            )
        if norms and not masked.norms:
            raise SettingsError(
                "optimizer: norms= has settings, but the MaskSet trains no norm weights; see train_norms="
            )
        self._masked = masked
        self._tensors = list(masked.tensors.values())
        self.skipped: dict[str, int] = {}
        self._in_a_row: dict[str, int] = {}
        self._inner = self._make_inner(cls, settings)
        self._check_settings(trained, "trained")
        self._check_settings(norms, "norms")
        groups: list[dict[str, Any]] = [{"params": [t.weight for t in self._tensors], **settings}]
        beside = [(parameters, trained or {})]
        if masked.norms:
            beside.append((list(masked.norms.values()), self._norm_settings(cls) | dict(norms or {})))
        for members, own in beside:
            if members:
                self._inner.add_param_group({"params": members, **own})
                groups.append({"params": members, **own})
        self._ready = False
        super().__init__(groups, dict(self._inner.defaults))
        self._ready = True

    def _check_settings(self, own: Any, what: str) -> None:
        """A slip would leave what is trained beside the masks at the rate of the scores."""
        known = self._inner.defaults
        if own is None:
            return
        if not isinstance(own, Mapping):
            raise SettingsError(
                f"optimizer: {what}= is a dict of settings, {{'lr': 0.1}} say, got {_told(own)}"
            )
        if unknown := [name for name in own if name not in known]:
            raise SettingsError(
                f"optimizer: {what}= has {unknown[0]!r}, which {type(self._inner).__name__} does not know"
                f"{did_you_mean(str(unknown[0]), known)}"
            )
        rate = own.get("lr", 0.0)
        if not isinstance(rate, int | float | Tensor) or not math.isfinite(float(rate)):
            raise SettingsError(f"optimizer: lr in {what}= is a finite rate, got {rate!r}")

    def _norm_settings(self, cls: type[torch.optim.Optimizer]) -> dict[str, Any]:
        """A rate of their own, and no decay: it would draw a scale of 1 to 0."""
        own: dict[str, Any] = {}
        if "lr" in self._inner.defaults:
            own["lr"] = norm_rate(cls, float(self._inner.defaults["lr"]))
        if "weight_decay" in self._inner.defaults:
            own["weight_decay"] = 0.0
        return own

    def _make_inner(
        self, cls: type[torch.optim.Optimizer], settings: dict[str, Any]
    ) -> torch.optim.Optimizer:
        scores = [t.scores for t in self._tensors]
        known = signature(cls).parameters
        # Not torch's SGD: fused, it fails where some tensors have a momentum and others, skipped so far, have none yet.
        faster = "fused" in known and cls is not torch.optim.SGD
        if faster and not {"fused", "foreach", "differentiable"} & set(settings):
            try:  # one pass over memory instead of many; refused for some dtypes and devices
                return cls(scores, **settings, fused=True)  # pyright: ignore[reportCallIssue]
            except RuntimeError:
                pass
        return cls(scores, **settings)  # pyright: ignore[reportCallIssue]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add ordinary parameters, trained as the optimizer class trains them.

        Those of the model are then asked for a gradient, saved with the mask, and restored by `MaskSet.remove`, as if
        `train=` had named them.
        """
        params = param_group["params"]
        param_group = {**param_group, "params": [params] if isinstance(params, Tensor) else list(params)}
        if self._ready and "lr" in self.defaults and "lr" not in param_group:
            raise SettingsError(
                "optimizer: add_param_group needs a rate for ordinary parameters, which is not that of scores; give "
                "it, for example {'params': …, 'lr': 0.1}"
            )
        super().add_param_group(dict(param_group))
        if self._ready:
            for parameter in param_group["params"]:
                self._masked.train(parameter)
            self._inner.add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on the scores, and the new weights. Tensors without a gradient keep their scores.

        So do those whose gradient is not finite: one NaN would destroy their scores for good, while outputs and loss
        stay finite. `skipped` counts such steps by the tensor's name. Raises `DivergedError` after `PATIENCE` of them
        in a row, and `SettingsError` where the model is not masked any more, or not the one that was.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._masked.check("optimizer.step", by="writes")
        for outer, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner.update({k: v for k, v in outer.items() if k not in ("params", _STEPS, _BASE)})
        fused = _fused_settings(self._inner, self._inner.param_groups[0])
        masked = [(t, t.weight.grad) for t in self._tensors if t.weight.grad is not None and t.theta.numel()]
        self._follow()
        terms = {t.name: shared_term(t.weight, grad, t.on) for t, grad in masked}
        ordinary = self._ordinary_gradients()
        # The term is a sum over all of the gradient: no NaN and no infinity gets past it, not even times w = 0.
        unsound = self._unsound(
            terms | {name: torch.linalg.vector_norm(g, torch.inf) for name, (_, g) in ordinary.items()}
        )
        for t, grad in masked:
            if t.name in unsound:
                continue
            term = terms[t.name]
            if fused is not None and _sgd_step(t, grad, term, self._inner.state[t.scores], *fused):
                continue
            # torch's fused kernels take the memory order for granted, and do not check it.
            t.scores.grad = laid_out_as(
                score_gradient(t.theta, t.weight, grad, t.on, _match(t.factor, t.scores), term), t.scores
            )
            if t.maskable is not None:
                t.scores.grad.mul_(t.maskable)
        for name in unsound & set(ordinary):
            ordinary[name][0].grad = None
        self._inner.step()
        for name in unsound & set(ordinary):
            ordinary[name][0].grad = ordinary[name][1]
        for t in self._tensors:
            t.scores.grad = None
        self._masked.steps += 1
        for t in self._tensors:
            if t.weight.grad is not None or t.scheduled:
                t.rewrite(self._masked.steps)
        forget_casts()
        self._begun()
        return loss

    def _begun(self) -> None:
        """Let torch see that there is a state: its distributed checkpoints have one without any take a step."""
        for t in self._tensors:
            self.state[t.weight] = {"score": t.scores}

    def _ordinary_gradients(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The parameters that are trained as they are, with their gradients, by name."""
        names = {id(p): name for name, p in self._masked.beside.items()}
        return {
            names.get(id(p), f"parameter {i} of group {k}"): (p, p.grad)
            for k, group in enumerate(self.param_groups[1:], start=1)
            for i, p in enumerate(group["params"])
            if p.grad is not None and p.grad.numel()
        }

    def _unsound(self, figures: dict[str, Tensor]) -> set[str]:
        """Which names' figures (0-dim) are not finite, counted; one message from each device, not one a tensor."""
        unsound: set[str] = set()
        for device in {figure.device for figure in figures.values()}:
            here = {name: figure.double() for name, figure in figures.items() if figure.device == device}
            finite = torch.stack(list(here.values())).isfinite().tolist()
            unsound |= {name for name, sound in zip(here, finite, strict=True) if not sound}
        for name in figures:
            self._in_a_row[name] = self._in_a_row.get(name, 0) + 1 if name in unsound else 0
            if name in unsound:
                self.skipped[name] = self.skipped.get(name, 0) + 1
            if self._in_a_row[name] >= PATIENCE:
                raise DivergedError(
                    f"the gradient of {name!r} held NaN or infinity in {PATIENCE} steps in a row; they were skipped, "
                    "so its scores are intact. Look for what makes it so: a loss that overflows, half precision "
                    "without a GradScaler, too large a learning rate"
                )
        return unsound

    def _follow(self) -> None:
        """Where the user has moved or re-laid the model, scores and what the optimizer knows of all go along."""
        group = self._inner.param_groups[0]["params"]
        for i, t in enumerate(self._tensors):
            t.follow()
            if group[i] is not t.scores:  # by this call, or by another optimizer's
                self._inner.state[t.scores] = self._inner.state.pop(group[i], {})
                group[i] = t.scores
        for own in self._inner.param_groups:
            for p in own["params"]:
                if p not in self._inner.state:
                    continue
                state = self._inner.state[p]
                for key, value in state.items():
                    # torch's fused kernels take the memory order for granted, and a file knows no strides.
                    if isinstance(value, Tensor) and value.shape == p.shape:
                        state[key] = laid_out_as(value, p)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, of which torch's own keep no more than groups and state."""
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in _OWN}}

    def state_dict(self) -> dict[str, Any]:
        """As every torch optimizer's, with each masked weight's `score` beside the base optimizer's own state."""
        own = self._inner.state_dict()
        for i, t in enumerate(self._tensors):
            own["state"][i] = {"score": t.scores, **own["state"].get(i, {})}
        packed = super().state_dict()
        packed["state"] = own["state"]
        packed["param_groups"][0] |= {_STEPS: self._masked.steps, _BASE: self._masked.fingerprint}
        return packed

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take scores, optimizer state and settings from `state_dict`, and rewrite the model's weights.

        Raises `SettingsError` if it was made for other masked weights, or holds scores that are not numbers.
        """
        self._masked.check("load_state_dict")
        self._follow()
        # By what the groups call them: numbers, or names where torch's distributed checkpoints have been at it.
        states: dict[Any, dict[str, Any]] = state_dict["state"]
        ids = [*state_dict["param_groups"][0]["params"], *[None] * len(self._tensors)]
        for i, t in zip(ids, self._tensors, strict=False):
            score = states.get(i, {}).get("score")
            if score is None or score.shape != t.scores.shape:
                got = "nothing" if score is None else f"shape {tuple(score.shape)}"
                raise SettingsError(
                    f"load_state_dict: {t.name} needs scores of shape {tuple(t.scores.shape)}, the state has {got}; "
                    "was it saved for another model or selection?"
                )
            if bool(score.isnan().any()):
                raise SettingsError(
                    f"load_state_dict: the scores of {t.name} hold NaN; take an earlier checkpoint"
                )
        if state_dict["param_groups"][0].get(_BASE, self._masked.fingerprint) != self._masked.fingerprint:
            raise SettingsError(
                "load_state_dict: the state was saved over other base weights than these. Make the MaskSet over the "
                "base (not over a model that masked weights were loaded into), then load the model's state and this"
            )
        groups = [
            {k: v for k, v in g.items() if k not in (_STEPS, _BASE)} for g in state_dict["param_groups"]
        ]
        inner = {i: {k: v for k, v in s.items() if k != "score"} for i, s in states.items()}
        self._inner.load_state_dict({"state": {i: s for i, s in inner.items() if s}, "param_groups": groups})
        super().load_state_dict({"state": {}, "param_groups": groups})
        for i, t in zip(ids, self._tensors, strict=False):
            t.scores.copy_(states[i]["score"])
        self._follow()
        self._begun()
        self._masked.steps = state_dict["param_groups"][0].get(_STEPS, 0)
        self._masked.rewrite()


def _fused_settings(inner: torch.optim.Optimizer, group: dict[str, Any]) -> tuple[float, float] | None:
    """(lr, momentum) where plain SGD with momentum is asked for, which has a faster path; else None."""
    if type(inner) is not torch.optim.SGD:
        return None
    if group["weight_decay"] or group["dampening"] or group["nesterov"] or group["maximize"]:
        return None
    return float(group["lr"]), float(group["momentum"])


def _match(factor: float | Tensor, scores: Tensor) -> float | Tensor:
    return factor.to(scores.dtype) if isinstance(factor, Tensor) else factor


def _told(given: Any) -> str:
    return repr(given) if isinstance(given, str | int | float) else type(given).__name__


def _sgd_step(
    tensor: MaskedTensor, grad: Tensor, term: Tensor, state: dict[str, Any], lr: float, momentum: float
) -> bool:
    """One step of SGD on `tensor.scores` in as few passes over memory as there can be without a kernel of our own.

    The plain road writes the score's gradient out and reads it back; here it goes straight into the momentum, once the
    second term of Main Eq. 2, `term`, is known:

        v ← m·v − Σ w g / (2 Σ M)          one pass
        v ← v + (1/α) θ ⊙ g                 one pass
        S ← S − λ v                         one pass

    `state` is torch.optim.SGD's own, and stays interchangeable with it. Returns False, having done nothing, where
    this path does not apply: no momentum, an accelerator (whose 1/α is on the device), some weights that may not be
    masked, low precision, or unlike memory layouts.
    """
    theta, scores = tensor.theta, tensor.scores
    applies = (
        momentum != 0
        and tensor.maskable is None
        and isinstance(tensor.on, int)
        and isinstance(tensor.factor, float)
        and theta.dtype == scores.dtype == grad.dtype
        and same_layout(theta, grad, scores)
    )
    if not applies:
        return False
    buffer = state.get("momentum_buffer")
    if buffer is None:
        buffer = state["momentum_buffer"] = torch.zeros_like(scores)
    elif not same_layout(buffer, scores):
        return False
    v, g = flat(buffer), flat(grad)
    torch.add(term.neg(), v, alpha=momentum, out=v)
    v.addcmul_(flat(theta), g, value=tensor.factor)  # pyright: ignore[reportArgumentType]
    flat(scores).add_(v, alpha=-lr)
    return True
