"""From what the user said to everything that a training needs: the plan. It is data; `build` makes things from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from selfmask._common.units import byte_count
from selfmask.backbones.backbone import Backbone
from selfmask.backbones.spec import build
from selfmask.errors import BackboneError, SettingsError
from selfmask.images.image_set import UNLABELLED, ImageSet
from selfmask.images.sources import enlarged
from selfmask.images.splits import Splits
from selfmask.maskfile.loading import load
from selfmask.masking.densities import check_densities
from selfmask.masking.norm import NormStats
from selfmask.masking.norm_weights import norm_weights, without_norms
from selfmask.masking.rules import Progressive, Rule, Threshold, TopK
from selfmask.masking.selection import LargestShare, RandomShare, Selection
from selfmask.objectives.base import PaperConstants, ScoreRecipe
from selfmask.objectives.registry import AUTO, objective_class, objective_settings
from selfmask.run.process import device_named, use_threads
from selfmask.run.schedule import FitSettings, default_rate, step_count
from selfmask.run.settings import AdaptSettings
from selfmask.run.split import open_images


@dataclass(frozen=True)
class Plan:
    """Everything chosen.

    settings: what was given. objective: its name, with `objective_settings` a `Settings` of its own.
    splits: see `split.RunImages`. train: those that are trained on. labelled: those of them that a probe may use.
    held_out: those that the mask is checked on, if it is. crops: what evaluation views may show of an image, the shares
    of its short side; the first unless another is found to be better.
    fit: the loop's settings. rule, selection, norm_stats, train_norms: of the mask set. size: pixels of the views.
    native: pixels that the backbone was pretrained at. channels_last: the memory format that suits the network.
    """

    settings: AdaptSettings
    objective: str
    objective_settings: Any
    backbone: Backbone
    splits: Splits
    train: ImageSet
    labelled: ImageSet
    held_out: ImageSet | None
    crops: tuple[float, ...]
    fit: FitSettings
    rule: Rule
    selection: Selection
    norm_stats: NormStats
    train_norms: bool
    size: int
    native: int
    channels_last: bool

    @property
    def can_be_measured(self) -> bool:
        """A probe and k-NN need labels on both sides, and two classes to tell apart."""
        test = self.splits.test
        return test is not None and len(self.labelled.labels.unique()) > 1 and len(test.labelled()) > 0

    def beside_train(self) -> dict[str, ImageSet | None]:
        """The other images of the run, as `split.put_on_record` takes them."""
        return {
            "images_with_labels": self.labelled,
            "images_held_out": self.held_out,
            "test_images": self.splits.test,
        }

    def at_rate(self, rate: float) -> Plan:
        """The same with another peak rate of the scores."""
        return replace(self, fit=replace(self.fit, rate=rate))

    def record(self) -> dict[str, Any]:
        """What the mask file keeps of the training: no path, and no image's name."""
        labels = objective_class(self.objective).labels
        return {
            "objective": self.objective,
            "data": self.train.name,
            "images": len(self.train),
            "labels": int((self.train.labels != UNLABELLED).sum()) if labels != "none" else 0,
            "classes": list(self.train.classes) if labels != "none" else [],
            "size": self.size,
            "norm_stats": self.norm_stats,
            **({"train_norms": True} if self.train_norms else {}),
            **self.fit.recorded(),
        }

    def lines(self) -> list[str]:
        """What was chosen, to print at the start."""
        fit, data = self.fit, self.train
        spread = self.rule.spread if isinstance(self.rule, Threshold) else 0.0
        test = "no test images" if self.splits.test is None else f"{len(self.splits.test)} test images"
        if self.splits.test is not None and not len(self.splits.test.labelled()):
            test += " without labels"
        notes = list(self.splits.notes)
        if (note := enlarged(self.size)) is not None:
            notes.append(f"Note: {note}.")
        if self.held_out is not None:
            test = f"{len(self.held_out)} more to check the mask on, {test}"
        elif objective_class(self.objective).labels == "needed" and self.settings.share_held_out():
            notes.append(
                f"{len(data)} labelled images are too few to hold some back: the mask is not checked before it is kept."
            )
        return [
            *notes,
            f"data: {data.name}, {len(data)} training images, {test}, {len(data.classes)} classes",
            f"backbone: {self.backbone.spec}, family {self.backbone.family}, {self.backbone.width} features, "
            f"views of {self.size} px",
            f"objective: {self.objective}{self._unused_labels()}; batch norms {self.norm_stats}"
            + (", norm weights trained" if self.train_norms else ""),
            f"training: {fit.steps} steps of {fit.batch} images ({fit.steps * fit.batch / len(data):.1f} epochs), "
            f"{fit.method} on the scores, peak rate {fit.rate:.3g}, rising over {fit.warmup:.0%} of the steps"
            + (f"; scores start between {1 - spread:g} and {1 + spread:g}" if spread else ""),
        ]

    def _unused_labels(self) -> str:
        """What to say of labels that an objective chosen for the many without has no use for."""
        count, images = len(self.labelled), len(self.train)
        if (
            self.settings.objective != AUTO
            or objective_class(self.objective).labels != "none"
            or not 0 < count < images
        ):
            return ""
        return f" ({count} of {images} images have labels, and it needs none; --objective supervised trains on those)"


def make_plan(settings: AdaptSettings) -> Plan:
    """Open the data, build the backbone, and choose what was left open.

    Raises a `SelfmaskError` for whatever cannot be: nothing has been written or trained by then.
    """
    use_threads(settings.threads)
    device = device_named(settings.device)
    selection = _selection(settings)
    images = open_images(settings)
    objective, train = images.objective, images.train
    kind = objective_class(objective)

    if settings.search_lr and (kind.labels != "needed" or images.held_out is None):
        why = (
            f"--objective {objective} has no head"
            if kind.labels != "needed"
            else "none is, as --no-evaluate or --held-out asked: --held-out 0.15 holds some out"
            if not settings.share_held_out()
            else f"{len(train)} are too few to hold any out: some 340 are needed, and 20 of each class"
        )
        raise SettingsError(f"--search-lr judges a rate by the head on labelled images held out, and {why}")

    backbone = build(settings.backbone, weights=settings.weights)
    native = backbone.preprocessing.size  # what it was pretrained at: targets without labels are taken there
    paper = kind.paper(backbone.family) if settings.preset == "paper" else None
    size = settings.size or (
        _PAPER_SIZE if paper else view_size(images.splits.train, backbone, on_cpu=device.type == "cpu")
    )
    if size != native and backbone.is_transformer:
        backbone = build(settings.backbone, weights=settings.weights, image_size=size)
    if size != native and not backbone.takes(size):
        if settings.size is not None:
            raise BackboneError(
                f"{settings.backbone} does not take images of {size} × {size} pixels; it was trained at {native}: "
                f"leave --size out, or say --size {native}"
            )
        size = native  # a mixer, say, whose layers belong to one size
    # Tiny images have no border to spare: the evaluation view then shows all of them.
    own = backbone.preprocessing.crop
    crops = (own, 1.0) if size > 160 else (1.0, own)
    backbone.preprocessing = replace(backbone.preprocessing, size=size, crop=crops[0])
    backbone.module.to(device)
    backbone.lay_out()

    # At the cost of names and sizes, what a mask set would refuse only after the base has been measured.
    chosen = selection.choose(backbone.module)[0]
    few = settings.optimizer is None and paper is None and _is_little(settings, chosen)
    norms = norm_weights(backbone.module)
    train_norms = settings.train_norms or (few and bool(norms) and not chosen.keys() <= norms.keys())
    if train_norms:
        chosen = without_norms(chosen, norms)
    recipe = kind.recipe_for(settings.optimizer or ("sgd" if paper else "tensor-adam" if few else None))
    fit = _fit_settings(settings, recipe, kind.passes, paper, len(train))
    rule = _rule(settings, fit, 0.0 if paper else recipe.spread)
    check_densities(rule, chosen, selection.share)
    return Plan(
        settings=settings,
        objective=objective,
        objective_settings=objective_settings(
            objective, settings.objective_settings, paper.at(settings.size) if paper else None
        ),
        backbone=backbone,
        splits=images.splits,
        train=train,
        labelled=images.labelled,
        held_out=images.held_out,
        crops=tuple(dict.fromkeys(crops)),
        fit=fit,
        rule=rule,
        selection=selection,
        norm_stats=settings.norm_stats or ("adapt" if paper else "frozen"),
        train_norms=train_norms,
        size=size,
        native=native,
        channels_last=backbone.prefers_channels_last,
    )


_PAPER_SIZE = 224


def view_size(images: ImageSet, backbone: Backbone, *, on_cpu: bool) -> int:
    """Pixels of the square view: twice the images' short side (more shows nothing new), within what the
    backbone was trained at, and at most 128 on a CPU; a multiple of 16, or of a transformer's patch.
    """
    native = backbone.preprocessing.size
    most = min(native, 128) if on_cpu else native
    size = max(min(2 * images.short_side(), most), min(48, native))
    step = backbone.multiple
    return max(step, size // step * step)


def _is_little(settings: AdaptSettings, chosen: Mapping[str, Tensor]) -> bool:
    """Whether the file may take so little that few flips and norm weights are the better start: docs/sizes.md.

    Half of the flips of adam, as many as can be given up at no loss, take about a bit for 16 weights.
    """
    if settings.max_bytes is None:
        return False
    weights = sum(tensor.numel() for tensor in chosen.values())
    return byte_count(settings.max_bytes, "--max-bytes") < weights / 128


def _fit_settings(
    settings: AdaptSettings, recipe: ScoreRecipe, passes: float, paper: PaperConstants | None, images: int
) -> FitSettings:
    given = settings.epochs is not None or settings.steps is not None
    epochs = settings.epochs if given or paper is None else paper.epochs
    if recipe.method == "sgd" and settings.lr is None and paper is None:
        raise SettingsError(
            "--optimizer sgd needs --lr: the right one differs a thousandfold between networks"
        )
    warmup = settings.warmup if settings.warmup is not None else paper.warmup if paper else recipe.warmup
    fit = FitSettings(
        steps=step_count(images, settings.batch, epochs, settings.steps, passes),
        batch=settings.batch,
        method=recipe.method,
        warmup=warmup,
        precision=settings.precision,
        seed=settings.seed,
        checkpoint_every=settings.checkpoint_every,
    )
    # The paper's rate is SGD's; with another optimizer it would destroy the network in a step.
    own = paper.lr if paper is not None and fit.method == "sgd" else None
    rate = settings.lr or own or default_rate(fit, recipe.path, recipe.most)
    return replace(fit, rate=rate)


def _selection(settings: AdaptSettings) -> Selection:
    select: Any = settings.select or "auto"
    if isinstance(select, str) and "," in select:
        select = [part.strip() for part in select.split(",")]
    weights = None
    if settings.weights_share is not None:
        kind, _, percent = settings.weights_share.partition(":")
        try:
            share = float(percent) / 100
        except ValueError:
            share = -1.0
        if kind not in ("largest", "random") or not 0 < share <= 1:
            raise SettingsError(
                f'--weights-share reads "largest:50" or "random:50", got {settings.weights_share!r}'
            )
        weights = LargestShare(share) if kind == "largest" else RandomShare(share)
    return Selection(select, weights, settings.stages)


def _rule(settings: AdaptSettings, fit: FitSettings, spread: float) -> Rule:
    if settings.rule == "threshold":
        return Threshold(spread=spread if settings.spread is None else settings.spread)
    density: float | dict[str, float] = 0.5
    if settings.density_from is not None:
        density = _found(settings.density_from)
    elif settings.density is not None:
        density = settings.density
    if settings.rule == "progressive":
        return TopK(Progressive(end=density, steps=fit.steps), settings.scores)
    return TopK(density, settings.scores)


def _found(path: Path) -> dict[str, float]:
    """The densities of a mask file, tensor by tensor."""
    try:
        found = load(path)
    except OSError as error:
        raise SettingsError(
            f"--density-from names a mask file, and {path} cannot be read: {error.strerror}"
        ) from None
    return {name: found.on[name] / max(found.numel(name), 1) for name in found.names}
