"""The router: which expert an image belongs to, from its dispatcher features (PAPER §8.2).

L2-normalised features, their 20 leading principal components with equal variances, then a Gaussian mixture (or
k-means). scikit-learn fits it; what is kept are plain tensors, and torch applies them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfmask._common.clustering import kmeans
from selfmask.errors import DataError, MaskFileError, SettingsError

Kind = Literal["gmm", "kmeans"]

COMPONENTS = 20  # PAPER §8.2
LEAST_IMAGES = 16  # an expert on fewer is an expert on noise
LEAST_SHARE = 0.1  # of an equal share of the images, below which a cluster is merged into its neighbour
# Principal components with less than this share of the leading one's variance are rounding, which whitening
# would blow up to the size of the others.
_LEAST_VARIANCE = 1e-8


@dataclass(frozen=True)
class Router:
    """A fitted router.

    kind: "gmm", a mixture of Gaussians with full covariances, or "kmeans", the nearest centre.
    projection: float32 (dims, width), offset: float64 (dims,): coordinates of an L2-normalised feature x are
        projection · x - offset.
    means: float64 (components, dims).
    factors: float64 (components, dims, dims), upper-triangular factors P of the precisions P Pᵀ (scikit-learn's
        `precisions_cholesky_`); (0, 0, 0) for k-means.
    log_weights: float64 (components,), the logarithms of the components' shares; (0,) for k-means.
    owner: int64 (components,), the expert that each component belongs to: components too small for an expert of
        their own share one.
    """

    kind: Kind
    projection: Tensor
    offset: Tensor
    means: Tensor
    factors: Tensor
    log_weights: Tensor
    owner: Tensor

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise SettingsError(f"a router is one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        self._check()

    @property
    def experts(self) -> int:
        """How many experts it chooses among."""
        return int(self.owner.max()) + 1

    @property
    def width(self) -> int:
        """The width of the features that it takes."""
        return self.projection.shape[1]

    def coordinates(self, x: Tensor) -> Tensor:
        """float64 (N, dims) of features x (N, width): normalised, projected, of unit variance in training."""
        if x.ndim != 2 or x.shape[1] != self.width:
            raise SettingsError(
                f"the router takes features (N, {self.width}), got {tuple(x.shape)}: give it the dispatcher's"
            )
        unit = F.normalize(x.double(), dim=1)
        return unit @ self.projection.to(x.device).double().T - self.offset.to(x.device)

    def components(self, x: Tensor) -> Tensor:
        """Probabilities of the mixture's components, float64 (N, components); one-hot for k-means."""
        z = self.coordinates(x)
        means = self.means.to(z.device)
        if self.kind == "kmeans":
            return F.one_hot(torch.cdist(z, means).argmin(dim=1), len(means)).double()
        factors = self.factors.to(z.device)
        # (z - m) P as z P - m P, component by component, so that memory stays at (N, components, dims).
        distances = torch.stack(
            [((z @ p) - (m @ p)).square().sum(dim=1) for p, m in zip(factors, means, strict=True)], dim=1
        )
        log_volume = factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        return (self.log_weights.to(z.device) + log_volume - 0.5 * distances).softmax(dim=1)

    def probabilities(self, x: Tensor) -> Tensor:
        """Probabilities of the experts, float64 (N, experts), rows summing to 1, of dispatcher features x."""
        components = self.components(x)
        return components.new_zeros(len(x), self.experts).index_add_(
            1, self.owner.to(components.device), components
        )

    def assign(self, x: Tensor) -> Tensor:
        """The most probable expert of each image, int64 (N,)."""
        return self.probabilities(x).argmax(dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps, by name; `from_tensors` is the inverse."""
        return {name: getattr(self, name) for name in _DTYPES}

    @classmethod
    def from_tensors(cls, kind: str, tensors: Mapping[str, Tensor]) -> Router:
        """Raises `MaskFileError` where the tensors do not make a router."""
        try:
            return cls(kind, **{name: tensors[name] for name in _DTYPES})  # type: ignore[arg-type]
        except (KeyError, SettingsError, ValueError) as error:
            raise MaskFileError(f"the cascade's router is damaged: {error}") from None

    def _check(self) -> None:
        for name, dtype in _DTYPES.items():
            tensor = getattr(self, name)
            if tensor.dtype != dtype or not bool(torch.isfinite(tensor).all()):
                raise SettingsError(f"router: {name} must be finite {dtype}, got {tensor.dtype}")
        if self.projection.ndim != 2 or self.means.ndim != 2 or 0 in self.means.shape:
            raise SettingsError("router: projection and means must be matrices, with one component at least")
        dims, parts = self.projection.shape[0], len(self.means)
        mixture = self.kind == "gmm"
        expected = {
            "offset": (dims,),
            "means": (parts, dims),
            "factors": (parts, dims, dims) if mixture else (0, 0, 0),
            "log_weights": (parts,) if mixture else (0,),
            "owner": (parts,),
        }
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise SettingsError(
                    f"router: {name} must have shape {shape}, got {tuple(getattr(self, name).shape)}"
                )
        owners = set(self.owner.tolist())  # a file's number may be any: nothing is made as long as it says
        if min(owners) != 0 or max(owners) != len(owners) - 1:
            raise SettingsError("router: owner must number the experts 0, 1, … without a gap")
        if mixture and not bool((self.factors.diagonal(dim1=1, dim2=2) > 0).all()):
            raise SettingsError("router: the factors' diagonals must be positive")


_DTYPES = {
    "projection": torch.float32,
    "offset": torch.float64,
    "means": torch.float64,
    "factors": torch.float64,
    "log_weights": torch.float64,
    "owner": torch.int64,
}


def fit_router(
    x: Tensor, experts: int, *, kind: Kind = "gmm", components: int = COMPONENTS, seed: int = 0
) -> tuple[Router, Tensor, list[str]]:
    """A router for `experts` experts on training features x (N, width), the experts of the training images
    (int64 (N,)), and lines that say what was merged or shortened.

    One expert is allowed: all images are its own. Clusters of fewer than 16 images, or of less than a tenth of an
    equal share, are merged into the nearest larger one, so there may be fewer experts than asked for.

    Raises `DataError` where the images are too few for so many experts, all look alike, or their features are
    not finite; `SettingsError` for experts < 1.
    """
    if experts < 1 or components < 1:
        raise SettingsError(f"a router needs at least 1 expert and 1 component, got {experts}, {components}")
    if x.ndim != 2 or not bool(torch.isfinite(x).all()):
        raise DataError(f"the router needs finite features (N, width), got shape {tuple(x.shape)}")
    check_support(len(x), experts)
    projection, offset, lines = _principal(x, components, seed)
    # The projection is rounded to what the file keeps before the mixture is fitted, so that the mixture is
    # exact for the coordinates that new images will get.
    z = F.normalize(x.cpu().double(), dim=1) @ projection.double().T - offset
    means, factors, log_weights, more = (
        _mixture(z, experts, seed) if kind == "gmm" else _centres(z, experts, seed)
    )
    router = Router(kind, projection, offset, means, factors, log_weights, torch.arange(experts))
    router, merged = _without_small(router, x.cpu())
    return router, router.assign(x.cpu()), lines + more + merged


def check_support(images: int, experts: int) -> None:
    """Raises `DataError` where `images` training images are too few for `experts` experts."""
    if images >= experts * LEAST_IMAGES:
        return
    most = images // LEAST_IMAGES
    raise DataError(
        f"{experts} expert{'s need' if experts > 1 else ' needs'} at least {experts * LEAST_IMAGES} images "
        f"({LEAST_IMAGES} each), there are {images}: "
        + (
            f"take at most {most} by --experts, or more images"
            if most
            else "learn one mask by selfmask adapt"
        )
    )


def _principal(x: Tensor, components: int, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    unit = F.normalize(x.cpu().double(), dim=1)
    if float(unit.var(dim=0).sum()) < 1e-12:
        raise DataError(
            f"the {len(x)} images all have the same features, so there is nothing to route by: "
            "are they copies of one image?"
        )
    from sklearn.decomposition import PCA  # here, because to use a router takes none of it

    count = min(components, len(x) - 1, x.shape[1])
    pca = PCA(count, svd_solver="covariance_eigh" if len(x) > x.shape[1] else "full", random_state=seed)
    pca.fit(unit.numpy())
    variance = torch.from_numpy(np.asarray(pca.explained_variance_))
    kept = int((variance > _LEAST_VARIANCE * variance[0]).sum())
    projection = torch.from_numpy(np.asarray(pca.components_)[:kept]) / variance[:kept, None].sqrt()
    projection = projection.float()
    offset = projection.double() @ torch.from_numpy(pca.mean_)
    lines = []
    if kept < components:
        lines.append(
            f"router: {kept} principal components instead of {components}: the features have no more"
        )
    return projection, offset, lines


_Parts = tuple[Tensor, Tensor, Tensor, list[str]]


def _mixture(z: Tensor, experts: int, seed: int) -> _Parts:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(experts, n_init=3, max_iter=300, random_state=seed)
    with warnings.catch_warnings():
        # Said in words below, and k-means on fewer distinct points than clusters is settled by merging.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(z.numpy())
    lines = [] if mixture.converged_ else [f"router: the mixture still moved after {mixture.n_iter_} rounds"]
    return (
        torch.from_numpy(mixture.means_),
        torch.from_numpy(mixture.precisions_cholesky_),
        torch.from_numpy(mixture.weights_).clamp(min=1e-300).log(),
        lines,
    )


def _centres(z: Tensor, experts: int, seed: int) -> _Parts:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres, _ = kmeans(z, experts, seed=seed, starts=10)
    return centres, z.new_zeros(0, 0, 0), z.new_zeros(0), []


def _without_small(router: Router, x: Tensor) -> tuple[Router, list[str]]:
    """The router with the components of small clusters given to the nearest large one, and what was merged."""
    asked = router.experts
    least = max(LEAST_IMAGES, math.ceil(LEAST_SHARE * len(x) / asked))
    owner = router.owner.clone()
    lines: list[str] = []
    while True:
        current = _renumbered(router, owner)
        sizes = torch.bincount(current.assign(x), minlength=current.experts)
        if current.experts == 1 or int(sizes.min()) >= least:
            break
        small = int(sizes.argmin())
        groups = torch.unique(owner)
        mine = owner == groups[small]
        # The nearest by the distance of means, in coordinates of unit variance.
        distance = torch.cdist(router.means[mine], router.means)
        distance[:, mine] = torch.inf
        target = owner[int(distance.min(dim=0).values.argmin())].clone()
        owner[mine] = target
        lines.append(
            f"router: a cluster of {int(sizes[small])} images (fewer than {least}) was merged into its neighbour"
        )
    if lines:
        lines.append(
            f"router: {'one expert' if current.experts == 1 else f'{current.experts} experts'} instead of {asked}"
        )
    return current, lines


def _renumbered(router: Router, owner: Tensor) -> Router:
    _, numbers = torch.unique(owner, return_inverse=True)
    return Router(
        router.kind,
        router.projection,
        router.offset,
        router.means,
        router.factors,
        router.log_weights,
        numbers,
    )
