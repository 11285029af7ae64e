"""From embeddings to probabilities of classes: a mask's head, CLIP's class names, or neighbours that have labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from selfmask.bank.prediction import names_of, probabilities
from selfmask.embeddings.embedder import Embedder
from selfmask.errors import DataError, MaskFileError, SettingsError
from selfmask.features.knn import knn_shares
from selfmask.features.whitening import Whitening
from selfmask.images.image_set import ImageSet
from selfmask.images.opening import open_data
from selfmask.maskfile.head import class_rows, predicts
from selfmask.objectives.text import TextSettings, class_embeddings
from selfmask.run.folder import RunFolder
from selfmask.run.split import open_as_recorded

Method = Literal["head", "text", "knn"]

_NO_CLASSES = "or do without classes: selfmask embed, then selfmask search"


@dataclass(frozen=True)
class Classifier:
    """method: what it is. classes: their names. labelled: how many images k-NN compares with, else 0. whitened: whether
    it compares whitened embeddings."""

    method: Method
    classes: tuple[str, ...]
    labelled: int
    _probabilities: Callable[[Tensor], Tensor] = field(repr=False)
    whitened: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Probabilities float32 (N, classes), rows summing to 1, of embeddings float32 (N, width).

        Of k-NN they are shares of the votes. Raises `MaskFileError` for a head that is damaged.
        """
        found = self._probabilities(x)
        if not bool(torch.isfinite(found).all()):
            raise MaskFileError("the head gives what is not finite: the mask file is damaged")
        return found


def classifier_of(
    embedder: Embedder,
    method: Method | None,
    *,
    network: Path | None,
    data: str | None,
    classes: tuple[str, ...],
    k: int | None,
    whiten: bool | None = None,
) -> Classifier:
    """What turns the embeddings of `embedder` into classes.

    method: None takes class names if they are given, else the labelled `data` if it is given, else the mask's head,
    else k-NN. k-NN compares with the labelled training images of `data`, or of the run in the folder `network`,
    whitened by those if `whiten` says so, or is None and it helps.

    Raises `SettingsError` where the method cannot be had, `DataError` where k-NN finds no labels.
    """
    mask = embedder.mask
    if method is None:
        if classes or data is not None:
            method = "text" if classes else "knn"
        else:
            method = "head" if mask is not None and predicts(mask.head) else "knn"
    if whiten is not None and method != "knn":
        raise SettingsError(f"--whiten and --no-whiten are for --method knn, not {method}: say --method knn")
    if k is not None and method != "knn":
        raise SettingsError(f"--k is for --method knn, not {method}: say --method knn")
    if method == "text":
        return _by_names(embedder, classes)
    if method == "knn":
        return _by_neighbours(embedder, network, data, 200 if k is None else k, whiten)
    rows = None if mask is None else class_rows(mask.head)
    if mask is None or rows is None:
        raise SettingsError(
            f"{embedder.made_by} brings no head: leave --method out for k-NN against labelled images"
        )
    names = names_of(mask.classes or (), len(rows))
    return Classifier("head", names, 0, lambda x: probabilities(x, mask.head, mask.path.name))


def _by_names(embedder: Embedder, classes: tuple[str, ...]) -> Classifier:
    """CLIP's text head made of class names."""
    tower = embedder.backbone.text
    if tower is None or embedder.cascade is not None:
        raise SettingsError(f"--classes needs a backbone that reads, a CLIP, and {embedder.made_by} is none")
    if len(classes) < 2:
        raise SettingsError(f"--classes: name two classes or more, got {', '.join(classes) or 'none'}")
    with torch.no_grad():
        rows = class_embeddings(tower, classes, TextSettings().prompts)
    head = {"text": rows, "logit_scale": torch.tensor(float(tower.logit_scale))}
    return Classifier("text", classes, 0, lambda x: probabilities(x, head, "text"))


def _by_neighbours(
    embedder: Embedder, network: Path | None, data: str | None, k: int, whiten: bool | None
) -> Classifier:
    """k-NN, the votes and their weights as `knn` has them."""
    images = _labelled(network, data)
    if len(images) == 0:
        raise DataError(
            f"{images.name} has no labels, and the network no head, so there are no classes to tell. Name labelled "
            f"images by --data FOLDER; or learn a head from class folders by selfmask adapt FOLDER; {_NO_CLASSES}"
        )
    x, _ = embedder.embed(images)
    labels, count = images.labels, len(images.classes)
    whitening = Whitening.where_it_helps(x, whiten) if len(x) > 1 else None
    if whitening is None:
        return Classifier("knn", images.classes, len(images), lambda y: knn_shares(x, labels, y, count, k))
    x = whitening.apply(x)
    return Classifier(
        "knn",
        images.classes,
        len(images),
        lambda y: knn_shares(x, labels, whitening.apply(y), count, k),
        True,
    )


def _labelled(network: Path | None, data: str | None) -> ImageSet:
    if data is not None:
        return open_data(data, test_share=0.0).train.labelled()
    if network is None or not network.is_dir() or not RunFolder(network).settings.is_file():
        raise SettingsError(
            f"{network or 'a backbone alone'} is no run's folder, so there is nothing to compare with: name labelled "
            f"images by --data FOLDER; {_NO_CLASSES}"
        )
    return open_as_recorded(RunFolder(network)).labelled
