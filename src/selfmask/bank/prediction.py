"""From features to labels, by the head that came with a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from selfmask._common.escape import one_line
from selfmask.errors import MaskFileError, SettingsError
from selfmask.maskfile.head import Head, class_rows, logits


@dataclass(frozen=True)
class Prediction:
    """The classes of one image: the most probable one, its probability in [0, 1], and the first few with theirs."""

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def no_head(name: str, head: Head) -> SettingsError:
    """Why the mask called `name`, with such a `head` or none, cannot predict."""
    instead = "take its features (embed), and k-NN or a probe on labelled images"
    if head:
        named = ", ".join(one_line(key) for key in list(head)[:4])
        return SettingsError(
            f"the head of the mask {name!r} has the tensors {named}; one that predicts has weight and bias, as a "
            f"linear layer's state_dict() has: save it so, or {instead}"
        )
    return SettingsError(
        f"the mask {name!r} brings no head, so it cannot predict: {instead}; masks that are learnt with labels bring "
        "one"
    )


def probabilities(x: Tensor, head: Head, name: str) -> Tensor:
    """Float32 (B, classes) of features float32 (B, width), by the head of the mask called `name`.

    Raises `MaskFileError` where the head has another width, `SettingsError` where there is none.
    """
    if x.ndim != 2:
        raise SettingsError(f"features have the shape (N, width), got {tuple(x.shape)}")
    rows = class_rows(head)
    if rows is None:
        raise no_head(name, head)
    said = logits(x, head)
    if said is None:
        raise MaskFileError(
            f"the head of the mask {name!r} has shape {tuple(rows.shape)}, and the features have width {x.shape[1]}, "
            "or its parts do not fit each other: these are not its mask's features, or it is damaged"
        )
    found = said.softmax(dim=1)
    if not bool(found.isfinite().all()):
        raise MaskFileError(
            f"the head of the mask {name!r} gives what is no number, so it tells no class: it is damaged, or the "
            "network overflows on these images"
        )
    return found


def predictions(
    x: Tensor, head: Mapping[str, Tensor], classes: Sequence[str], name: str, top: int
) -> list[Prediction]:
    """One for each row of the features `x`, with the `top` most probable classes (fewer where there are fewer).

    A class is called by its number where `classes`, the file's names, are not one for each output of the head.
    """
    if top < 1:
        raise SettingsError(f"top is how many classes are told, 1 or more, got {top}")
    found = probabilities(x, head, name)
    return told(found, names_of(classes, found.shape[1]), top)


def names_of(classes: Sequence[str], outputs: int) -> tuple[str, ...]:
    """`classes`, or numbers where these are not one for each of the `outputs`."""
    return tuple(classes) if len(classes) == outputs else tuple(map(str, range(outputs)))


def told(found: Tensor, names: Sequence[str], top: int) -> list[Prediction]:
    """Probabilities float32 (B, classes) as `Prediction`s, with the `top` first of the classes called `names`."""
    best = found.topk(min(top, found.shape[1]), dim=1)
    rows: list[tuple[tuple[str, float], ...]] = [
        tuple((str(names[k]), p) for k, p in zip(indices, values, strict=True))
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return [Prediction(row[0][0], row[0][1], row) for row in rows]
