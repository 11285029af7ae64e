"""The linear probe: L2 logistic regression on the un-augmented, un-normalised features (PAPER §7).

The probe minimises, over weight W (classes, width) and bias b,

    mean_i cross_entropy(W x_i + b, y_i)  +  penalty · scale² / 2 · ‖W‖²,

with `scale` the root mean square length of a centred training feature, so that a penalty means the same for
features of any scale. In scikit-learn's terms it is `LogisticRegression(C=probe.c)` with softmax; for two
classes, where scikit-learn fits a single sigmoid, it is that with twice the C.

Why not scikit-learn's: down the same grid, started anew from each stop, it took 1.8 times the time on 3 000 features of
width 1280 in 40 classes and ended before its optimum, 1.3 points of top-1 lower (benchmarks/bench_judges.py); and it
runs on the CPU only. Where it is made to converge, the two agree (tests/features/test_probe.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from selfmask.errors import DataError, SettingsError
from selfmask.features.features import check_features, check_labels
from selfmask.features.spectrum import Layer, spectrum

# From "almost the class means" to "almost separated", in steps of half a decade; strong to weak, so that each
# fit starts from the one before.
PENALTIES = tuple(10.0 ** (-exponent / 2) for exponent in range(2, 14))
DEFAULT_PENALTY = 1e-3  # where there is nothing to choose by: one label a class
VALIDATION_SHARE = 0.2
# Below this many images one validation part is too small to choose by: five parts take turns.
SMALL_SET = 1000
FOLDS = 5
# The path ends this many stops after the lowest cross-entropy: 1.5 decades, and accuracy peaks soon after it.
PATIENCE = 3


@dataclass(frozen=True)
class Probe:
    """weight float32 (C, width) and bias float32 (C,) over `classes` int64 (C,), the classes seen in training,
    ascending. `penalty` as in the module's formula, `c` the same in scikit-learn's terms, `images` trained on."""

    weight: Tensor
    bias: Tensor
    classes: Tensor
    penalty: float
    c: float
    images: int

    def logits(self, x: Tensor) -> Tensor:
        """(M, C) float32, columns in the order of `classes`."""
        return F.linear(x.float(), self.weight.to(x.device), self.bias.to(x.device))

    def predict(self, x: Tensor) -> Tensor:
        """Predicted classes int64 (M,) of features (M, width)."""
        check_features(x, "linear probe, prediction")
        if x.shape[1] != self.weight.shape[1]:
            raise SettingsError(
                f"the probe was fitted on features of width {self.weight.shape[1]}, got {x.shape[1]}: "
                "take both from one backbone"
            )
        return self.classes.to(x.device)[self.logits(x).argmax(dim=1)]

    def head(self, classes: int) -> tuple[Tensor, Tensor]:
        """weight (classes, width) and bias (classes,) to start a linear layer from.

        A class that was not seen gets a zero weight and the lowest bias of the others.
        """
        weight = self.weight.new_zeros(classes, self.weight.shape[1])
        bias = self.bias.new_full((classes,), float(self.bias.min()))
        weight[self.classes] = self.weight
        bias[self.classes] = self.bias
        return weight, bias


def fit_probe(train_x: Tensor, train_y: Tensor, *, seed: int = 0) -> Probe:
    """A probe on `train_x` (N, width) and labels `train_y` int64 (N,) ≥ 0, its penalty chosen by validation.

    The penalty with the highest accuracy on a seeded, stratified fifth (ties: the lower cross-entropy) is used to
    fit once more on everything; sets under 1 000 images use five parts in turn. Test data plays no part.
    Raises `DataError` for fewer than two classes, features that are not finite, or missing labels.
    """
    x, targets, classes = _checked(train_x, train_y)
    penalty, start = _chosen(x, targets, len(classes), seed)
    return _fit(x, targets, classes, penalty, start)


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    check_features(x, "linear probe")
    check_labels(x, y, "linear probe")
    classes, targets = torch.unique(y.to(x.device, torch.int64), return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"a probe needs images of at least 2 classes, got {len(classes)} class")
    return x, targets, classes


def _fit(x: Tensor, targets: Tensor, classes: Tensor, penalty: float, start: Layer | None = None) -> Probe:
    """The probe of one penalty > 0. `start`: a layer on the features that is near the solution, if one is known."""
    axes = spectrum(x)
    targets = targets.to(axes.mean.device)
    coordinates = axes.coordinates(x)
    layer = None if start is None else axes.on_coordinates(*start)
    if layer is None:
        # Down the path from strong to weak: each stop is near the next, which costs less than one cold start.
        for stop in (stronger for stronger in PENALTIES if stronger > penalty):
            layer = minimise(coordinates, targets, len(classes), axes.variances, stop, layer, tolerance=1e-4)
    layer = minimise(coordinates, targets, len(classes), axes.variances, penalty, layer)
    weight, bias = axes.on_features(*layer)
    return Probe(
        weight=weight.float().cpu(),
        bias=bias.float().cpu(),
        classes=classes.cpu(),
        penalty=penalty,
        c=1 / (len(x) * penalty * axes.scale**2),
        images=len(x),
    )


def _chosen(x: Tensor, targets: Tensor, classes: int, seed: int) -> tuple[float, Layer | None]:
    """The penalty, and a layer on the features that was fitted with it on the first part's training images."""
    folds = [_Fold(x, targets, classes, part) for part in _validation_parts(targets.cpu(), seed)]
    if not folds:
        return DEFAULT_PENALTY, None
    tried: list[tuple[float, float, float, Layer]] = []
    for penalty in PENALTIES:
        scores = [fold.next(penalty) for fold in folds]
        right, entropy = (sum(column) for column in zip(*scores, strict=True))
        tried.append((right, -entropy, penalty, folds[0].on_features()))
        # From here on the path only fits the training images more closely: the rest of it is not worth its time.
        best = max(range(len(tried)), key=lambda index: tried[index][1])
        if len(tried) - 1 - best >= PATIENCE:
            break
    _, _, penalty, layer = max(tried, key=lambda entry: entry[:2])
    return penalty, layer


class _Fold:
    """One validation part and the images left to train on, taken down the path of penalties."""

    def __init__(self, x: Tensor, targets: Tensor, classes: int, held_out: Tensor) -> None:
        held_out = held_out.to(x.device)
        self.axes = spectrum(x[~held_out])
        device = self.axes.mean.device
        self.x, self.y = self.axes.coordinates(x[~held_out]), targets[~held_out].to(device)
        self.test_x, self.test_y = self.axes.coordinates(x[held_out]), targets[held_out].to(device)
        self.classes = classes
        self.layer: Layer | None = None

    def next(self, penalty: float) -> tuple[float, float]:
        """Right answers and summed cross-entropy on the part held out, with this penalty."""
        self.layer = minimise(
            self.x, self.y, self.classes, self.axes.variances, penalty, self.layer, tolerance=1e-4
        )
        logits = self.test_x @ self.layer[0].T + self.layer[1]
        right = float((logits.argmax(dim=1) == self.test_y).sum())
        return right, float(F.cross_entropy(logits, self.test_y, reduction="sum"))

    def on_features(self) -> Layer:
        assert self.layer is not None  # `next` has been called
        return self.axes.on_features(*self.layer)


def _validation_parts(targets: Tensor, seed: int) -> list[Tensor]:
    """bool (N,) of the images held out, one for each part; none where no class has two images.

    Stratified: the images of each class, shuffled, are dealt out to the parts in turn. A class with a single image
    stays in training always.
    """
    generator = torch.Generator().manual_seed(seed)
    folds = round(1 / VALIDATION_SHARE)
    fold = torch.full_like(targets, -1)
    offset = 0
    for value in range(int(targets.max()) + 1):
        members = (targets == value).nonzero().squeeze(1)
        if len(members) < 2:
            continue
        shuffled = members[torch.randperm(len(members), generator=generator)]
        # The deal goes on where the last class ended, so that small classes do not all fall to the first part.
        fold[shuffled] = (torch.arange(len(members)) + offset) % folds
        offset += len(members)
    used = FOLDS if len(targets) < SMALL_SET else 1
    return [fold == index for index in range(used) if bool((fold == index).any())]


def minimise(
    x: Tensor,
    targets: Tensor,
    classes: int,
    variances: Tensor,
    penalty: float,
    start: Layer | None = None,
    *,
    tolerance: float = 1e-6,
    iterations: int = 1000,
) -> Layer:
    """The minimum of mean cross-entropy + penalty/2 · ‖W‖² on principal coordinates `x` (N, rank), float64.

    L-BFGS in variables scaled by the curvature on each axis, so that the problem is well conditioned and some tens
    of evaluations are enough at any penalty of the grid, if `start` is the solution of a neighbouring penalty.
    Returns weight (classes, rank) and bias (classes,), float64.
    """
    if start is None:
        counts = torch.bincount(targets, minlength=classes).to(x)
        log_prior = (counts.clamp(min=0.5) / len(x)).log()
        start = x.new_zeros(classes, x.shape[1]), log_prior - log_prior.mean()
    probability = (x @ start[0].T + start[1]).softmax(dim=1)
    # Taken at the start: at weak penalties the images are all but separated and the curvature is small. Böhning's
    # constant bound in its place (½ for the mean of p(1-p)) made the solver ten times slower there.
    doubt = float((probability * (1 - probability)).mean())
    stretch = torch.cat(
        [(doubt * variances + penalty).rsqrt(), variances.new_full((1,), (doubt + 1e-6) ** -0.5)]
    )
    inputs = torch.cat([x, x.new_ones(len(x), 1)], dim=1) * stretch
    shrink = stretch[:-1].square()
    v = (torch.cat([start[0], start[1][:, None]], dim=1) / stretch).requires_grad_()
    hot = F.one_hot(targets, classes).to(x)
    solver = torch.optim.LBFGS(
        [v],
        max_iter=iterations,
        max_eval=2 * iterations,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=tolerance,
        tolerance_change=1e-14,
    )

    def closure() -> float:
        with torch.no_grad():
            logits = inputs @ v.T
            log_total = logits.logsumexp(dim=1)
            residual = (logits - log_total[:, None]).exp_().sub_(hot)
            v.grad = (residual.T @ inputs).div_(len(x))
            v.grad[:, :-1] += penalty * shrink * v[:, :-1]
            loss = (log_total - (logits * hot).sum(dim=1)).mean()
            return float(loss + 0.5 * penalty * (shrink * v[:, :-1].square()).sum())

    solver.step(closure)  # pyright: ignore[reportArgumentType]
    solution = v.detach() * stretch
    return solution[:, :-1], solution[:, -1]
