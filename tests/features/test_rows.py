"""The table of rows: reference, pairing, JSON and print."""

from __future__ import annotations

import json

import msgspec
import pytest
import torch
from rich.console import Console

from selfmask.errors import DataError
from selfmask.features.intervals import accuracy_interval, paired_interval
from selfmask.features.rows import Estimate, Outcome, Rows, Verdict


def right(share: float, count: int = 500, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) < share


def four() -> Rows:
    return Rows.of(
        [
            Outcome("pretrained", knn=right(0.5), probe=right(0.6)),
            Outcome("statistics only", knn=right(0.45), probe=right(0.55)),
            Outcome("masked", knn=right(0.7), probe=right(0.75), head=right(0.8)),
            Outcome("full fine-tuning", knn=right(0.7), head=right(0.61, seed=1)),
        ]
    )


def test_differences_are_paired_with_the_first_row() -> None:
    rows = four()
    assert rows.images == 500
    assert rows["pretrained"].knn_gain is None
    masked = rows["masked"]
    assert masked.knn is not None
    assert masked.knn_gain is not None
    assert masked.head_gain is not None
    assert (masked.knn.value, masked.knn.low, masked.knn.high) == accuracy_interval(right(0.7))
    assert (masked.knn_gain.value, masked.knn_gain.low) == paired_interval(right(0.7), right(0.5))[:2]
    # The head's reference is the pretrained probe.
    assert masked.head_gain.value == paired_interval(right(0.8), right(0.6))[0]
    assert rows["full fine-tuning"].probe is None
    with pytest.raises(KeyError, match="the table has pretrained, statistics only"):
        rows["nothing"]


def test_json_goes_there_and_back() -> None:
    rows = four()
    assert msgspec.convert(json.loads(json.dumps(rows.to_json())), Rows) == rows


def test_the_printed_table_says_what_was_measured() -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(four().table())
        text = console.export_text()
    assert "…" not in text, "80 columns must be enough"
    rows = {block.split("│")[1].strip(): block for block in text.split("├") if "│" in block}
    masked = next(block for name, block in rows.items() if name == "masked")
    accuracy, low, high = accuracy_interval(right(0.7))
    assert f"{accuracy:.3f}" in masked
    assert f"[{low:.3f}, {high:.3f}]" in masked
    assert "+0." in masked
    assert "−0." in next(block for name, block in rows.items() if name == "statistics only")
    assert "linear probe" in text
    assert "500 test images" in text


def test_rows_on_different_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"same test images, got \[10, 20\]"):
        Rows.of([Outcome("a", knn=right(0.5, 10)), Outcome("b", knn=right(0.5, 20))])
    with pytest.raises(DataError, match="nothing was measured"):
        Rows.of([Outcome("a")])
    with pytest.raises(DataError, match="at least one row"):
        Rows.of([])


@pytest.mark.parametrize(
    ("gain", "kind", "figures"),
    [
        (Estimate(0.089, 0.062, 0.118), "better", "+8.9 points of top-1 (95 % interval +6.2 to +11.8)"),
        (Estimate(-0.044, -0.074, -0.016), "worse", "−4.4 points of top-1 (95 % interval −7.4 to −1.6)"),
        (Estimate(0.01, -0.01, 0.03), "no different, within the interval", "+1.0 points"),
    ],
)
def test_a_verdict_is_a_sentence(gain: Estimate, kind: str, figures: str) -> None:
    verdict = Verdict.on(gain, "The masked network", "top-1")
    assert verdict.kind == kind.split(",")[0]
    assert verdict.sentence.startswith(f"The masked network is {kind}: {figures}")


def test_the_verdict_is_on_the_head_else_on_k_nn() -> None:
    rows = four()
    assert rows.verdict().kind == "better"
    assert "top-1 against the linear probe on the pretrained features" in rows.verdict().sentence
    assert rows.verdict("statistics only", "It").sentence.startswith("It is worse: −")
    assert "k-NN top-1 against the pretrained features" in rows.verdict("statistics only").sentence
    assert rows.verdict("pretrained").kind == rows.verdict("nothing").kind == "not measured"


def exactly(share: float, seed: int) -> torch.Tensor:
    return torch.randperm(500, generator=torch.Generator().manual_seed(seed)) < round(500 * share)


def test_where_the_head_is_no_better_the_embeddings_may_be() -> None:
    rows = Rows.of(
        [
            Outcome("pretrained", knn=right(0.5), probe=right(0.6)),
            Outcome("masked", knn=right(0.7), head=right(0.6, seed=1)),
        ]
    )
    assert rows.verdict().kind == "no different"
    assert "As embeddings it is better: +" in rows.verdict().sentence
    assert "As embeddings" not in four().verdict().sentence


def test_the_untouched_network_at_its_best_is_named_beside_the_masked_one() -> None:
    """By k-NN each side has its best row, whitened or larger; the difference is paired between those two."""
    at = [exactly(share, k) for k, share in enumerate((0.5, 0.6, 0.8, 0.65, 0.62))]
    names = [
        "pretrained",
        "pretrained, whitened",
        "pretrained, 128 px, whitened",
        "masked, whitened",
        "masked",
    ]
    rows = Rows.of([Outcome(name, knn=x) for name, x in zip(names, at, strict=True)])
    assert rows.rival is not None
    assert (rows.rival.row, rows.rival.ours, rows.rival.measure) == (names[2], names[3], "knn")
    assert rows.rival.accuracy == Estimate(*accuracy_interval(at[2]))
    assert rows.rival.gain == Estimate(*paired_interval(at[3], at[2]))
    verdict = rows.verdict()
    assert verdict.kind == "better"  # than the untouched network at the same size
    assert (
        "pretrained, 128 px, whitened (k-NN 0.800), masked, whitened is worse: −15.0 points"
        in verdict.sentence
    )
    assert verdict.sentence.endswith("keep the untouched network.")


def test_of_several_sizes_the_one_that_is_judged_is_held_against_the_best_untouched_row() -> None:
    """The masked network at another size may do better still: that is not what was asked."""
    at = {
        "pretrained, 64 px": 0.5,
        "pretrained, 128 px": 0.7,
        "masked, 64 px": 0.6,
        "masked, 64 px, whitened": 0.55,
        "masked, 128 px": 0.9,
    }
    outcomes = [Outcome(name, knn=exactly(share, k)) for k, (name, share) in enumerate(at.items())]
    rows = Rows.of(outcomes, judged="masked, 64 px")
    assert rows.rival is not None
    assert (rows.rival.row, rows.rival.ours) == ("pretrained, 128 px", "masked, 64 px")
    verdict = rows.verdict("masked, 64 px", "The masked network at 64 px")
    assert verdict.kind == "better"
    assert verdict.sentence.startswith(
        "The masked network at 64 px is better: +10.0 points of k-NN top-1 against"
    )
    assert "against the pretrained features at 64 px (95 %" in verdict.sentence
    assert "Beside the untouched network at its best, pretrained, 128 px (k-NN 0.700)" in verdict.sentence
    assert "masked, 64 px is worse: −10.0 points" in verdict.sentence
    assert "Beside" not in rows.verdict("masked, 128 px").sentence


def test_a_head_is_held_against_the_best_probe() -> None:
    at = [exactly(share, k) for k, share in enumerate((0.5, 0.6, 0.9))]
    rows = Rows.of(
        [
            Outcome("pretrained", knn=at[2], probe=at[0]),
            Outcome("pretrained, 96 px", knn=at[0], probe=at[1]),
            Outcome("masked", knn=at[0], probe=at[0], head=at[2]),
            Outcome("masked, whitened", knn=at[2]),
        ]
    )
    assert rows.rival is not None
    assert (rows.rival.row, rows.rival.ours, rows.rival.measure) == ("pretrained, 96 px", "masked", "probe")
    assert rows.rival.gain == Estimate(*paired_interval(at[2], at[1]))
    sentence = rows.verdict().sentence
    assert "(linear probe 0.600), masked is better: +30.0 points" in sentence
    assert "keep" not in sentence


def test_no_rival_where_there_is_nothing_to_hold_against() -> None:
    assert Rows.of([Outcome("pretrained", knn=right(0.5))]).rival is None
    assert Rows.of([Outcome("masked", knn=right(0.5))]).rival is None
    alone = Rows.of([Outcome("pretrained", knn=right(0.5)), Outcome("masked", knn=right(0.6))])
    assert alone.rival is not None
    assert "at its best" not in alone.verdict().sentence  # it would say the same twice
