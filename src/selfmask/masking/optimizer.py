"""The mask optimizer: a torch optimizer over the model's masked weights that moves their scores instead.

After `loss.backward()` a step does, for each masked tensor: ∂L/∂w → ∂L/∂M (PAPER Main Eq. 2), any torch
optimizer's update on the scores, and the new w = θ·M/α in place. Its `param_groups` hold the model's own
parameters, so gradient clipping, loss scaling, `zero_grad` and learning-rate schedulers find what they expect;
its `state_dict` holds the scores, so a checkpoint of model and optimizer is complete.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

from selfmask.errors import SettingsError
from selfmask.masking.gradient import flat, same_layout, score_gradient
from selfmask.masking.masked import MaskedTensor, MaskedTensors, laid_out_as

_STEPS = "mask_steps"


class MaskOptimizer(torch.optim.Optimizer):
    """Made by `MaskSet.optimizer`. Group 0 holds the masked weights, group 1 those that are trained as they are."""

    def __init__(
        self,
        masked: MaskedTensors,
        base: type[torch.optim.Optimizer] | None,
        settings: dict[str, Any],
        trained: dict[str, Any] | None,
    ) -> None:
        cls = torch.optim.SGD if base is None else base
        if "lr" not in settings and cls is torch.optim.SGD:
            raise SettingsError(
                "optimizer: SGD on the scores needs lr=…; the paper's is 50 for ResNets, 10 for ViTs"
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
        self._masked = masked
        self._tensors = list(masked.tensors.values())
        self._inner = self._make_inner(cls, settings)
        groups: list[dict[str, Any]] = [{"params": [t.weight for t in self._tensors], **settings}]
        if parameters:
            self._inner.add_param_group({"params": parameters, **(trained or {})})
            groups.append({"params": parameters, **(trained or {})})
        self._ready = False
        super().__init__(groups, dict(self._inner.defaults))
        self._ready = True

    def _make_inner(
        self, cls: type[torch.optim.Optimizer], settings: dict[str, Any]
    ) -> torch.optim.Optimizer:
        scores = [t.scores for t in self._tensors]
        known = inspect.signature(cls).parameters
        if "fused" in known and not {"fused", "foreach", "differentiable"} & set(settings):
            try:  # one pass over memory instead of many; refused for some dtypes and devices
                return cls(scores, **settings, fused=True)  # pyright: ignore[reportCallIssue]
            except RuntimeError:
                pass
        return cls(scores, **settings)  # pyright: ignore[reportCallIssue]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add ordinary parameters, trained as the optimizer class trains them."""
        if getattr(self, "_ready", False):
            self._inner.add_param_group(dict(param_group))
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on the scores, and the new weights. Tensors without a gradient keep their scores and weights."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for outer, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner.update({k: v for k, v in outer.items() if k not in ("params", _STEPS)})
        group = self._inner.param_groups[0]
        fused = _fused_settings(self._inner, group)
        stepped = [t for t in self._tensors if t.weight.grad is not None]
        for t in stepped:
            self._follow(t)
            grad = t.weight.grad
            assert grad is not None
            if fused is not None and _sgd_step(t, grad, self._inner.state[t.scores], *fused):
                t.scores.grad = None
                continue
            # torch's fused kernels take the memory order for granted, and do not check it.
            t.scores.grad = laid_out_as(
                score_gradient(t.theta, t.weight, grad, t.on, _match(t.factor, t.scores)), t.scores
            )
            if t.maskable is not None:
                t.scores.grad.mul_(t.maskable)
        self._inner.step()
        for t in stepped:
            t.scores.grad = None
        self._masked.steps += 1
        for t in stepped:
            t.rewrite(self._masked.steps)
        return loss

    def _follow(self, t: MaskedTensor) -> None:
        """Where the user has moved or re-laid the model, scores and their optimizer state go along."""
        before = t.scores
        t.follow()
        if t.scores is before:
            return
        group = self._inner.param_groups[0]["params"]
        group[next(i for i, s in enumerate(group) if s is before)] = t.scores
        state = self._inner.state.pop(before, {})
        self._inner.state[t.scores] = {
            k: torch.empty_like(t.scores).copy_(v) if isinstance(v, Tensor) and v.shape == before.shape else v
            for k, v in state.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """As every torch optimizer's, with each masked weight's `score` beside the base optimizer's own state."""
        own = self._inner.state_dict()
        for i, t in enumerate(self._tensors):
            own["state"][i] = {"score": t.scores, **own["state"].get(i, {})}
        packed = super().state_dict()
        packed["state"] = own["state"]
        packed["param_groups"][0][_STEPS] = self._masked.steps
        return packed

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take scores, optimizer state and settings from `state_dict`, and rewrite the model's weights.

        Raises `SettingsError` if it was made for other masked weights.
        """
        states: dict[int, dict[str, Any]] = state_dict["state"]
        for i, t in enumerate(self._tensors):
            score = states.get(i, {}).get("score")
            if score is None or score.shape != t.scores.shape:
                got = "nothing" if score is None else f"shape {tuple(score.shape)}"
                raise SettingsError(
                    f"load_state_dict: {t.name} needs scores of shape {tuple(t.scores.shape)}, the state has {got}; "
                    "was it saved for another model or selection?"
                )
        groups = [{k: v for k, v in g.items() if k != _STEPS} for g in state_dict["param_groups"]]
        inner = {i: {k: v for k, v in s.items() if k != "score"} for i, s in states.items()}
        self._inner.load_state_dict({"state": {i: s for i, s in inner.items() if s}, "param_groups": groups})
        super().load_state_dict({"state": {}, "param_groups": groups})
        for i, t in enumerate(self._tensors):
            t.scores.copy_(states[i]["score"])
            own = self._inner.state[t.scores]
            for key, value in own.items():
                if isinstance(value, Tensor) and value.shape == t.scores.shape:
                    own[key] = laid_out_as(value, t.scores)  # a file knows no strides
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


def _sgd_step(tensor: MaskedTensor, grad: Tensor, state: dict[str, Any], lr: float, momentum: float) -> bool:
    """One step of SGD on `tensor.scores` in as few passes over memory as there can be without a kernel of our own.

    The plain road writes the score's gradient out and reads it back; here it goes straight into the momentum:

        v ← m·v − Σ w g / (2 Σ M)          one pass (the second term of Main Eq. 2 is one number)
        v ← v + (1/α) θ ⊙ g                 one pass
        S ← S − λ v                         one pass

    `state` is torch.optim.SGD's own, and stays interchangeable with it. Returns False, having done nothing, where
    this path does not apply: no momentum, an accelerator (whose 1/α is on the device), some weights that may not be
    masked, low precision, or unlike memory layouts.
    """
    theta, weight, scores = tensor.theta, tensor.weight.detach(), tensor.scores
    applies = (
        momentum != 0
        and tensor.maskable is None
        and isinstance(tensor.on, int)
        and isinstance(tensor.factor, float)
        and theta.dtype == scores.dtype == grad.dtype
        and same_layout(theta, weight, grad, scores)
    )
    if not applies:
        return False
    buffer = state.get("momentum_buffer")
    if buffer is None:
        buffer = state["momentum_buffer"] = torch.zeros_like(scores)
    elif not same_layout(buffer, scores):
        return False
    v, g = flat(buffer), flat(grad)
    term = torch.dot(flat(weight), g).div_(-2 * tensor.on)
    torch.add(term, v, alpha=momentum, out=v)
    v.addcmul_(flat(theta), g, value=tensor.factor)  # pyright: ignore[reportArgumentType]
    flat(scores).add_(v, alpha=-lr)
    return True
