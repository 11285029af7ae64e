"""From paths to masks with a name: what `selfmask analyze` compares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from selfmask.cascades.cascade_file import load_cascade
from selfmask.errors import MaskFileError
from selfmask.maskfile.loading import load, parse_mask
from selfmask.maskfile.mask import Mask
from selfmask.maskfile.saving import mask_bytes
from selfmask.reports.density import Layer, layers, total_density
from selfmask.reports.filters import FilterShares, filter_shares
from selfmask.reports.similarity import OffBits
from selfmask.run.folder import RunFolder

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Subject:
    """One mask, measured; its bits are kept packed only.

    Attributes:
        label: short and unique among those compared.
        path: the mask file.
        backbone, data, objective: from the metadata; "unknown" where it does not say.
        layers: see `density.layers`.
        filters: see `density.filter_shares`.
        off_bits: see `similarity.OffBits`.
        metrics: figures of the training summary by dotted name ("masked.knn"), for tables over runs.
        sizes: bytes by part, as `Mask.bytes()`.
        metadata: the file's metadata.
    """

    label: str
    path: Path
    backbone: str
    data: str
    objective: str
    layers: tuple[Layer, ...]
    filters: tuple[FilterShares, ...]
    off_bits: OffBits
    metrics: Mapping[str, float]
    sizes: Mapping[str, int]
    metadata: Mapping[str, Any]

    @property
    def density(self) -> float:
        """The share of masked weights that are on, in [0, 1]."""
        return total_density(self.layers)


def open_masks(path: Path, label: str) -> list[tuple[str, Mask]]:
    """The masks of one file with their labels: one, or the dispatcher and the experts of a cascade."""
    try:
        return [(label, load(path))]
    except MaskFileError as not_a_mask:
        try:
            cascade = load_cascade(path)
        except MaskFileError:
            raise not_a_mask from None
        names = ["dispatcher", *(f"expert {number}" for number in range(1, cascade.experts + 1))]
        return [(f"{label}, {name}", _as_a_file(cascade.member(number))) for number, name in enumerate(names)]


def _as_a_file(mask: Mask) -> Mask:
    """A cascade's member as it would be stored alone: its bytes are then those of any other mask file."""
    content = mask_bytes(
        mask.index.base, mask.masks(), mask.statistics, mask.trained, mask.stored_head, mask.metadata,
        norms=mask.norms,
    )  # fmt: skip
    return parse_mask(content, mask.path)


def find_masks(paths: Iterable[Path]) -> list[Path]:
    """The mask files that `paths` mean: a file itself, the mask of a run folder, all masks of a folder.

    Raises `MaskFileError` for a path that holds none.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_file():
            found.append(path)
            continue
        run = RunFolder(path)
        of_run = [file for file in (run.mask_file, run.cascade_file) if file.is_file()][:1]
        others = (run.checkpoint, run.measured, run.router, run.split_file)
        here = of_run or [file for file in sorted(path.glob("*.safetensors")) if file not in others]
        here = here or sorted(path.glob(f"*/{run.mask_file.name}"))
        if not here:
            what = (
                "no mask file (*.safetensors, or run folders that hold one)"
                if path.is_dir()
                else "no such file"
            )
            raise MaskFileError(f"{path}: {what}; name mask files, run folders, or a folder of them")
        found.extend(here)
    return list(dict.fromkeys(found))


def labels_for(paths: list[Path]) -> list[str]:
    """A short unique name for each file: its stem, or its folder's name for a run's `mask.safetensors`."""
    parts = []
    for path in paths:
        names = list(path.resolve().with_suffix("").parts)
        stem = names.pop().removesuffix(".mask")
        parts.append([*names, stem] if stem not in ("mask", "cascade") or not names else names)
    lengths = [1] * len(paths)
    while True:
        labels = ["/".join(names[-n:]) for names, n in zip(parts, lengths, strict=True)]
        counts = Counter(labels)
        longer = [
            n + 1 if counts[label] > 1 and n < len(names) else n
            for label, names, n in zip(labels, parts, lengths, strict=True)
        ]
        if longer == lengths:
            return labels
        lengths = longer


def measure_subject(mask: Mask, label: str) -> tuple[Subject, dict[str, Tensor]]:
    """The subject and its masks, which the caller drops as soon as it can (one byte a weight)."""
    masks = mask.masks()
    metadata = mask.metadata
    training = _dictionary(metadata, "training")
    backbone = _dictionary(metadata, "backbone")
    subject = Subject(
        label=label,
        path=mask.path,
        backbone=str(backbone.get("spec") or backbone.get("family") or metadata.get("base") or UNKNOWN),
        data=_text(training, "data", "data_name", "dataset"),
        objective=_text(training, "objective", "labels"),
        layers=layers(masks),
        filters=filter_shares(masks),
        off_bits=OffBits.of(masks),
        metrics=dict(_figures(training)),
        sizes=mask.bytes(),
        metadata=metadata,
    )
    return subject, masks


def _dictionary(metadata: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = metadata.get(key)
    return value if isinstance(value, dict) else {}


def _text(training: Mapping[str, Any], *keys: str) -> str:
    for key in keys:
        value = training.get(key)
        if isinstance(value, dict):
            value = value.get("name")
        if isinstance(value, str) and value:
            return value
    return UNKNOWN


def _figures(value: Any, prefix: str = "") -> Iterable[tuple[str, float]]:
    """Numeric leaves of nested dictionaries; of an estimate with an interval its value; of rows each by name."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield prefix, float(value)
    elif isinstance(value, dict):
        if "value" in value and "low" in value:
            yield from _figures(value["value"], prefix)
            return
        for key, item in value.items():
            yield from _figures(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict) and isinstance(item.get("name"), str):
                rest = {key: part for key, part in item.items() if key != "name"}
                yield from _figures(rest, f"{prefix}.{item['name']}" if prefix else item["name"])
