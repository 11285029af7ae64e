"""What a user can say about an adaptation. Every field is a flag of `selfmask adapt`; None means "choose for me"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import msgspec

from selfmask._common.escape import encodable, one_line
from selfmask._common.units import byte_count
from selfmask.backbones.catalogue import DEFAULT
from selfmask.errors import SettingsError
from selfmask.maskfile.saving import HeadDtype
from selfmask.masking.norm import NormStats
from selfmask.objectives.base import Method
from selfmask.objectives.registry import AUTO, objective_settings
from selfmask.run.schedule import Precision
from selfmask.run.tracking import Tracker

HELD_OUT = 0.15


@dataclass(frozen=True)
class AdaptSettings:
    """Learn a mask for a backbone on your images."""

    data: str
    """Images: a folder (class sub-folders, train/ and test/ of such, or no structure at all), a .csv or .jsonl
    list, or the name of a data set (see `selfmask data list`)."""
    out: Path | None = None
    """Folder for everything that the run writes. Default: runs/NAME-OF-THE-DATA."""
    backbone: str = DEFAULT
    """The pretrained network: package:efficientnet_lite0 (comes with selfmask), timm:NAME, openclip:NAME, …"""
    weights: Path | None = None
    """A file of weights for the backbone (.safetensors, .pth), instead of the hub's."""
    objective: str = AUTO
    """How to learn: supervised (labels), contrast, distil or swav (no labels), text (class names, CLIP). auto takes
    supervised where most training images have labels, else contrast."""
    objective_settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the objective's own, by name; on the command line --OBJECTIVE.NAME."""
    preset: Literal["default", "paper"] = "default"
    """paper sets every constant that you do not give as the paper does (SGD on the scores, 150 epochs, …)."""

    labels: Path | None = None
    """A CSV of file,label: the only labels to use."""
    budget: str | None = None
    """Use only so many of the labels: "5 per class", "1 %"."""
    split_file: Path | None = None
    """Which image is for training, validation or test."""
    test_share: float = 0.2
    """Share of labelled images held out for the test where the data has no test part of its own."""
    held_out: float | None = None
    """Share of the labelled training images to check the mask on, at most 1000: one that is worse there than the
    untouched network is kept as rejected.mask.safetensors. 0: no check. The data's own validation part is taken
    instead where it has one. Default: 0.15; none with --no-evaluate, or where too few would remain to train on."""
    images: int | None = None
    """Train on so many images only, drawn in proportion to the classes."""

    size: int | None = None
    """Side of the training and evaluation views, in pixels. Default: from the images' own size."""
    mirror: bool = True
    """Also train on mirror images. Not where a mirror image is another thing, as with traffic signs and text."""
    epochs: float | None = None
    """Passes over the training images. Default: 4 (swav: 8), but at least 150 steps."""
    steps: int | None = None
    """Optimizer steps, instead of epochs."""
    batch: int = 64
    """Images a step."""
    optimizer: Method | None = None
    """What moves the scores: adam (default), tensor-adam (a sixth to a fiftieth of its flips) or sgd (the paper's)."""
    spread: float | None = None
    """Scores start between 1 - spread and 1 + spread, in [0, 1). Default with adam: 0.95; else, and with --preset
    paper, 0."""
    lr: float | None = None
    """Peak learning rate of the scores. Default: from the number of steps (sgd has none)."""
    search_lr: bool = False
    """Find the peak rate, from --lr on: whole trainings at rates twice apart while it gets better, 3 to 6 of them; the
    one that does best on the images held out is taken. For labelled images unlike those that the backbone knows."""
    warmup: float | None = None
    """Share of the steps over which the rate rises, in [0, 1)."""

    select: str | None = None
    """Which parameters are masked: auto, presets' names and name patterns, separated by commas ("auto,*.bias")."""
    weights_share: str | None = None
    """Mask only a share of each tensor's weights: "largest:50" or "random:50" (percent)."""
    stages: int | None = None
    """Mask only the first so many stages of the network."""
    rule: Literal["threshold", "topk", "progressive"] = "threshold"
    """How scores become a mask."""
    density: float | None = None
    """Share of weights that topk and progressive leave on, in (0, 1]."""
    density_from: Path | None = None
    """A mask file whose densities, tensor by tensor, topk is to use and progressive to end at ("found")."""
    scores: Literal["random", "magnitude"] = "random"
    """Where the scores of topk and progressive start: at random, or in proportion to |weight|."""
    norm_stats: NormStats | None = None
    """Batch norms: frozen (nothing to store) or adapt (their running statistics move and are stored)."""
    train_norms: bool = False
    """Also train the weights of the norm layers, at a rate of their own; the mask file has them in a byte each."""

    head_dtype: HeadDtype = "float32"
    """How the mask file stores the classifier. float16 takes half the bytes, int8 a quarter, int4 an eighth; what it
    costs is measured and said."""
    max_bytes: int | str | None = None
    """The mask file takes no more, head and metadata included: 10240, 10k (× 1024), 10kB (× 1000). Where that is
    little, few weights are switched off and norm weights are trained, unless you give --optimizer. What is given up
    is chosen and measured on images held out, and said."""

    evaluate: bool = True
    """Measure k-NN, linear probe and head on the test images, before and after."""
    statistics: bool = True
    """Also measure "statistics only": running statistics moved to the images, no mask."""
    larger: bool = True
    """Also measure the untouched network on larger views, at the size at which it is at its best."""
    finetune: bool = False
    """Also train all weights the ordinary way with the same budget, as a row to compare with."""
    finetune_lr: float | None = None
    """Peak learning rate of that row."""
    norms_alone: bool = False
    """Also train the weights of the norm layers alone, with no mask, as a row to compare with."""
    track: Tracker | None = None
    """Also tell the log and the results to tensorboard (files in the run's folder), wandb or mlflow."""
    pictures: bool = False
    """Also write the page of `selfmask report` and each of its figures into the run's folder."""
    seed: int = 0
    """Of everything that is drawn."""
    threads: int | None = None
    """CPU threads for the network. Default: all cores."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, mps. Another GPU: by CUDA_VISIBLE_DEVICES."""
    precision: Precision = "fp32"
    """bf16 runs the network in mixed precision."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    resume: bool = False
    """Go on with the run in `out` where it was stopped."""

    FREE: ClassVar[tuple[str, ...]] = (
        "resume", "threads", "checkpoint_every", "evaluate", "statistics", "larger", "finetune", "finetune_lr",
        "norms_alone", "out", "device", "head_dtype", "pictures", "track",
    )  # fmt: skip
    """What a resumed run may change."""

    def __post_init__(self) -> None:
        if not self.data:
            raise SettingsError("no data was given: name a folder of images, a list file, or 'digits'")
        for name in ("data", "labels", "split_file", "backbone", "weights", "density_from", "out"):
            text = str(getattr(self, name))
            if text != encodable(text):
                raise SettingsError(
                    f"--{name.replace('_', '-')} {one_line(text)} is not UTF-8, and a run's records are: rename it, or "
                    "give a link to it"
                )
        if not 0 <= self.seed < 2**32:
            raise SettingsError(f"--seed is a whole number from 0 to 2^32 − 1, got {self.seed}")
        if self.epochs is not None and self.steps is not None:
            raise SettingsError("give epochs or steps, not both")
        for name in ("epochs", "steps", "images", "size", "stages", "lr", "finetune_lr"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise SettingsError(f"--{name.replace('_', '-')} must be positive, got {value}")
        if self.max_bytes is not None:
            byte_count(self.max_bytes, "--max-bytes")
            if self.rule != "threshold":
                raise SettingsError(
                    f"--max-bytes turns weights on again, and --rule {self.rule} has a density of its own: leave one "
                    "out, or make a smaller file afterwards by selfmask compact --max-bytes"
                )
        if self.batch < 2:
            raise SettingsError(f"--batch must be at least 2, got {self.batch}")
        for name in ("test_share", "held_out"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise SettingsError(f"--{name.replace('_', '-')} is a share in [0, 1), got {share}")
        if self.rule == "progressive" and self.density is None and self.density_from is None:
            raise SettingsError(
                "--rule progressive needs the density to end at: --density 0.9 say, or --density-from MASK"
            )
        if self.rule == "threshold" and (self.density is not None or self.density_from is not None):
            raise SettingsError(
                "the threshold rule finds its density itself; --density goes with --rule topk"
            )
        if self.rule == "threshold" and self.scores != "random":
            raise SettingsError(
                "the threshold rule starts all scores alike; --scores magnitude goes with --rule topk"
            )
        if self.rule != "threshold" and self.spread is not None:
            raise SettingsError(f"--spread is for the threshold rule; --rule {self.rule} starts by --scores")
        if self.finetune_lr is not None and not self.finetune:
            raise SettingsError("--finetune-lr is the rate of --finetune: give both")
        if not self.evaluate and (self.finetune or self.norms_alone):
            rival = "finetune" if self.finetune else "norms-alone"
            raise SettingsError(f"--{rival} is a row of what is measured, and --no-evaluate measures nothing")
        if self.density is not None and self.density_from is not None:
            raise SettingsError("give --density or --density-from, not both")
        if self.objective != AUTO:
            objective_settings(self.objective, self.objective_settings)
        elif self.objective_settings:
            raise SettingsError(
                f"objective_settings ({', '.join(self.objective_settings)}) belong to one objective: name it too"
            )

    def share_held_out(self) -> float:
        """Of the labelled training images, in [0, 1): what `held_out` comes to."""
        if self.held_out is not None:
            return self.held_out
        return HELD_OUT if self.evaluate else 0.0

    def folder(self) -> Path:
        """Where the run is written."""
        if self.out is not None:
            return self.out
        name = Path(self.data.rpartition(":")[2]).name or "run"
        return Path("runs") / name

    def recorded(self) -> dict[str, Any]:
        """As JSON, for the run's folder: without what a resumed run may change. `read` is its inverse."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.FREE}
        # Which images are trained on is no longer free once they have been.
        share = self.share_held_out()
        values["held_out"] = None if share == HELD_OUT else share
        return {key: _plain(value) for key, value in values.items()}

    @classmethod
    def read(cls, recorded: Mapping[str, Any], **changes: Any) -> Self:
        """The settings that `recorded` holds, with `changes`. Raises `SettingsError` where it is no such record."""
        try:
            return msgspec.convert({**recorded, **changes}, cls, dec_hook=_path)
        except (msgspec.ValidationError, UnicodeError) as error:
            raise SettingsError(f"the recorded settings cannot be read: {error}") from error


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return str(value) if isinstance(value, Path) else value


def _path(kind: type, value: Any) -> Any:
    if kind is not Path:
        raise NotImplementedError
    return Path(value)


HEADINGS: dict[str, tuple[str, ...]] = {
    "": ("data", "out", "backbone", "weights", "objective", "labels", "size", "epochs", "finetune", "resume"),
    "Images": ("mirror", "budget", "split_file", "test_share", "held_out", "images"),
    "Training": (
        "steps", "batch", "optimizer", "lr", "search_lr", "warmup", "spread", "precision", "seed", "preset",
        "checkpoint_every",
    ),
    "Which weights, and how many": (
        "select", "weights_share", "stages", "rule", "density", "density_from", "scores", "norm_stats",
        "train_norms",
    ),
    "What is measured and stored": (
        "evaluate", "statistics", "larger", "finetune_lr", "norms_alone", "head_dtype", "max_bytes", "pictures",
        "track",
    ),
    "Machine": ("threads", "device"),
}  # fmt: skip
"""The flags under their headings; the first are those that a user needs first, in that order."""
