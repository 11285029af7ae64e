"""Our k-NN and linear probe beside scikit-learn's: seconds, and how often they answer alike.

    python benchmarks/bench_judges.py [--train 3000] [--test 1500] [--width 1280] [--classes 40] [--json]

The features are drawn: class means in axes of very unequal variance, as a network's features have them. k-NN is
`KNeighborsClassifier` with the same votes, once by cosine and once by the (then equivalent) Euclidean distance of unit
vectors. The probe is `LogisticRegression` down the same grid of penalties on the same validation part, each stop
started from the one before, once on the features and once on our principal axes. All in this process, one thread
each (set OMP_NUM_THREADS=1), seed 0; seconds of processor time.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from selfmask.features.knn import knn
from selfmask.features.probe import PENALTIES, _validation_parts, fit_probe
from selfmask.features.spectrum import spectrum


def drawn(count: int, width: int, classes: int, part: int) -> tuple[Tensor, Tensor]:
    """Features (count, width) and labels; the same means and axes for every `part`."""
    shared = torch.Generator().manual_seed(0)
    axes = torch.randn(width, width, generator=shared) * torch.logspace(0, -2, width)[:, None]
    means = torch.randn(classes, width, generator=shared)
    generator = torch.Generator().manual_seed(1 + part)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return (means[labels] + 4 * torch.randn(count, width, generator=generator)) @ axes / width**0.5, labels


def sklearn_knn(train_x: Tensor, train_y: Tensor, test_x: Tensor, *, metric: str) -> Tensor:
    x, queries = (F.normalize(part, dim=1).numpy() for part in (train_x, test_x))

    def votes(distance: np.ndarray) -> np.ndarray:
        return np.exp(-(distance if metric == "cosine" else distance**2 / 2) / 0.1)

    weights: Any = votes  # the stubs know names of weightings only
    judge = KNeighborsClassifier(200, metric=metric, algorithm="brute", weights=weights).fit(
        x, train_y.numpy()
    )
    return torch.from_numpy(judge.predict(queries))


def sklearn_probe(train_x: Tensor, train_y: Tensor, test_x: Tensor, *, rotated: bool) -> Tensor:
    axes = spectrum(train_x)

    def seen(x: Tensor) -> np.ndarray:
        return (axes.coordinates(x) if rotated else x.double() / axes.scale).numpy()

    held_out = _validation_parts(train_y, 0)[0].numpy()
    x, y = seen(train_x), train_y.numpy()
    judge = LogisticRegression(warm_start=True, max_iter=1000)
    scores: list[tuple[float, float]] = []
    for penalty in PENALTIES:
        judge.set_params(C=1 / (penalty * (~held_out).sum())).fit(x[~held_out], y[~held_out])
        scores.append((judge.score(x[held_out], y[held_out]), penalty))
    judge.set_params(C=1 / (max(scores)[1] * len(y))).fit(x, y)
    return torch.from_numpy(judge.predict(seen(test_x)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name, default in (("train", 3000), ("test", 1500), ("width", 1280), ("classes", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # scikit-learn's word on not having converged is a finding, not a fault
    train_x, train_y = drawn(arguments.train, arguments.width, arguments.classes, 0)
    test_x, test_y = drawn(arguments.test, arguments.width, arguments.classes, 1)

    def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
        begun = time.process_time()
        found = work()
        return time.process_time() - begun, found

    ways: dict[str, Callable[[], Tensor]] = {
        "k-NN: ours": lambda: knn(train_x, train_y, test_x),
        "k-NN: scikit-learn, cosine": lambda: sklearn_knn(train_x, train_y, test_x, metric="cosine"),
        "k-NN: scikit-learn, Euclidean": lambda: sklearn_knn(train_x, train_y, test_x, metric="euclidean"),
        "probe: ours": lambda: fit_probe(train_x, train_y).predict(test_x),
        "probe: scikit-learn, our axes": lambda: sklearn_probe(train_x, train_y, test_x, rotated=True),
        "probe: scikit-learn, features": lambda: sklearn_probe(train_x, train_y, test_x, rotated=False),
    }
    results, reference = [], {}
    for name, work in ways.items():
        seconds, answers = timed(work)
        kind = name.partition(":")[0]
        reference.setdefault(kind, answers)
        results.append(
            {
                "judge": name,
                "seconds": round(seconds, 2),
                "accuracy": float((answers == test_y).double().mean()),
                "as ours": float((answers == reference[kind]).double().mean()),
            }
        )
    if arguments.json:
        print(json.dumps({**vars(arguments), "results": results}, indent=1))
        return
    for row in results:
        print(
            f"{row['judge']:32} {row['seconds']:8.2f} s   top-1 {row['accuracy']:.4f}   as ours {row['as ours']:.4f}"
        )


if __name__ == "__main__":
    main()
