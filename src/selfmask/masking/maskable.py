"""What no mask can be learnt on, refused before anything is made of it: weights that are not what the network uses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from selfmask.errors import SelectionError
from selfmask.masking.places import Place

_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")
_COMPUTED = (WeightNorm, SpectralNorm, prune.BasePruningMethod)


def check_maskable(model: nn.Module, chosen: Mapping[str, Tensor], everywhere: Mapping[str, Place]) -> None:
    """Raises `SelectionError` where a mask on the `chosen` parameters would be none on what the network computes with.

    `everywhere` are all places of `model`.
    """
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith(_QUANTISED):
            raise SelectionError(
                f"{name or 'the model'} is quantised ({kind.__name__}): no gradient reaches its weights, and no "
                "fingerprint sees them; learn the mask on the float network, and quantise what comes out"
            )
        if any(ancestor.__name__ == "FullyShardedDataParallel" for ancestor in kind.__mro__):
            raise SelectionError(
                f"{name or 'the model'} is sharded ({kind.__name__}), so each process holds a part of a tensor, and a "
                "mask counts a whole one; use DistributedDataParallel, or make the MaskSet over the network unsharded"
            )
    where: dict[int, list[Place]] = {}
    for place in everywhere.values():
        where.setdefault(id(place.tensor), []).append(place)
    for name, parameter in model.named_parameters():
        why = _no_plain_tensor(parameter)
        if why is None and name in chosen:
            why = _computed_from(where[id(parameter)])
        if why is not None:
            raise SelectionError(f"{name} {why}")
    _check_memory(chosen, everywhere)


def _no_plain_tensor(parameter: Tensor) -> str | None:
    """What is wrong with a tensor that is no plain dense one with values, or None."""
    kind = type(parameter.data) if not is_lazy(parameter) else type(parameter)
    if any(ancestor.__name__ == "DTensor" for ancestor in kind.__mro__):
        return (
            "is sharded (a DTensor, as FSDP2 makes them), so each process holds a part of it, and a mask counts a "
            "whole tensor; use DistributedDataParallel, or make the MaskSet over the network unsharded"
        )
    if is_lazy(parameter) or parameter.device.type == "meta":
        return "has no values yet; run a batch through the network, or load its weights, before the MaskSet is made"
    if kind is not Tensor or parameter.layout is not torch.strided:
        return (
            f"is held as {kind.__name__} ({parameter.layout}), of which neither a mask nor a fingerprint can be made: "
            "plain dense tensors are needed; where it was quantised, learn the mask before"
        )
    if parameter.is_inference():
        return "was made under torch.inference_mode(), so it cannot be trained; build the model outside of it"
    return None


def _computed_from(where: list[Place]) -> str | None:
    """What is wrong with a parameter that the network does not use as it is, or None."""
    for place in where:
        hooks = (h for h in place.owner._forward_pre_hooks.values() if isinstance(h, _COMPUTED))
        if isinstance(place.owner, ParametrizationList):
            remedy = "torch.nn.utils.parametrize.remove_parametrizations"
        elif place.name.endswith(("_g", "_v", "_orig")) and (hook := next(hooks, None)) is not None:
            remedy = {
                WeightNorm: "torch.nn.utils.remove_weight_norm",
                SpectralNorm: "torch.nn.utils.remove_spectral_norm",
            }.get(type(hook), "torch.nn.utils.prune.remove")
        else:
            continue
        return (
            "is parametrised: the weight that the network uses is computed from it, so a mask on it is none on that "
            f"weight; make the weight an ordinary parameter by {remedy} first"
        )
    return None


def _check_memory(chosen: Mapping[str, Tensor], everywhere: Mapping[str, Place]) -> None:
    """Two parameters over the same memory: masking one would change the other, whose gradient it does not get."""
    seen: dict[int, tuple[int, int, str]] = {}
    for name, place in everywhere.items():
        tensor = place.tensor
        if tensor is not None and id(tensor) not in seen and type(tensor.data) is Tensor and tensor.numel():
            last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
            begin = tensor.data_ptr()
            seen[id(tensor)] = (begin, begin + (last + 1) * tensor.element_size(), name)
    mine = {id(parameter) for parameter in chosen.values()}
    end, holder, masked = 0, "", False
    for identity, (begin, until, name) in sorted(seen.items(), key=lambda item: item[1]):
        if begin < end and (masked or identity in mine):
            raise SelectionError(
                f"{holder} and {name} are two tensors over the same memory, and one of them is to be masked; tie "
                "weights by using one parameter in both places"
            )
        if until > end:
            end, holder, masked = until, name, identity in mine
