"""k-NN against scikit-learn's classifier with the same metric and weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from selfmask.errors import DataError, SettingsError
from selfmask.features.knn import knn, knn_shares
from selfmask.features.knn import knn as knn_function


@settings(deadline=None, max_examples=25)
@given(
    st.integers(3, 80),
    st.integers(1, 30),
    st.integers(1, 100),
    st.integers(0, 1000),
    st.sampled_from([0.05, 0.1, 1]),
)
def test_knn_agrees_with_scikit_learn(count: int, width: int, k: int, seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    # One width would make all cosines ±1, where the k nearest are not defined.
    train = torch.randn(count, width + 1, generator=generator) * 7 + 1
    test = torch.randn(40, width + 1, generator=generator) * 7 + 1
    labels = torch.randint(0, 4, (count,), generator=generator)
    oracle = KNeighborsClassifier(
        n_neighbors=min(k, count),
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature),  # pyright: ignore[reportArgumentType]
    ).fit(train.double().numpy(), labels.numpy())
    votes = np.sort(oracle.predict_proba(test.double().numpy()), axis=1)
    clear = votes.shape[1] == 1 or votes[:, -1] - votes[:, -2] > 1e-4
    expected = oracle.predict(test.double().numpy())
    assert (knn(train, labels, test, k, temperature).numpy() == expected)[clear].all()
    shares = knn_shares(train, labels, test, 5, k, temperature).numpy()
    whole = np.zeros((len(test), 5))
    whole[:, oracle.classes_] = oracle.predict_proba(test.double().numpy())
    # Where two neighbours are equally near either may be the last that votes.
    assert np.isclose(shares, whole, atol=1e-4).all(axis=1).mean() > 0.95
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = torch.randn(50, 8), torch.randn(33, 8)
    labels = torch.randint(0, 5, (50,))
    whole, shares = knn(train, labels, test, k=7), knn_shares(train, labels, test, 5, k=7)
    monkeypatch.setitem(knn_function.__globals__, "_SIMILARITIES", 120)
    assert torch.equal(knn(train, labels, test, k=7), whole)
    assert torch.allclose(knn_shares(train, labels, test, 5, k=7), shares, atol=1e-6)
    assert torch.equal(shares.argmax(dim=1), whole)


def test_scale_does_not_matter_and_small_temperatures_do_not_overflow() -> None:
    train, test = torch.randn(60, 8), torch.randn(20, 8)
    labels = torch.randint(0, 3, (60,))
    assert torch.equal(knn(train, labels, test), knn(train * 1e4, labels, test * 1e-4))
    nearest = labels[(torch.nn.functional.normalize(test) @ torch.nn.functional.normalize(train).T).argmax(1)]
    assert torch.equal(knn(train, labels, test, temperature=1e-5), nearest)


def test_bad_input_is_named() -> None:
    x, y = torch.randn(5, 3), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(DataError, match="1 of 5 images are not finite"):
        knn(x.clone().index_fill_(0, torch.tensor(2), float("nan")), y, x)
    with pytest.raises(DataError, match="no label"):
        knn(x, y - 1, x)
    with pytest.raises(DataError, match="at least one image"):
        knn(x[:0], y[:0], x)
    with pytest.raises(SettingsError, match="width 3, test features 2"):
        knn(x, y, x[:, :2])
    with pytest.raises(SettingsError, match="k ≥ 1"):
        knn(x, y, x, k=0)
