"""Which ordinary parameters are trained beside the masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from selfmask._common.near import did_you_mean
from selfmask.errors import SelectionError
from selfmask.masking.selection import matches

Train = str | Sequence[str] | Callable[[str, nn.Parameter], bool]


def trained_beside(
    model: nn.Module, train: Train, chosen: Mapping[str, nn.Parameter]
) -> dict[str, nn.Parameter]:
    """The parameters that `train` names; an error if there are none, or if one is masked as well."""
    listed = isinstance(train, Sequence)
    chooses = callable(train) and not isinstance(train, nn.Module)
    if not chooses and not (listed and all(isinstance(one, str) for one in train)):
        given = "a list of other things" if listed else type(train).__name__
        raise SelectionError(
            f"train is a pattern of parameters' names ('head.*'), a list of such, or a function, got {given}"
        )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first = {id(p): name for name, p in model.named_parameters()}  # of a tied parameter's names
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
    names = [first[id(parameters[name])] for name in names]
    for name in names:
        if name in chosen:
            raise SelectionError(
                f"train: {name!r} is masked as well; a parameter is either masked or trained"
            )
    return {n: parameters[n] for n in dict.fromkeys(names)}
