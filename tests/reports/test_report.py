"""The report page: what it says of finished, interrupted, damaged and all-on runs; that nothing reaches out of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import pytest
import torch
from markupsafe import escape

from selfmask.cascades.cascade_file import write_cascade
from selfmask.cascades.router import fit_router
from selfmask.errors import RunError
from selfmask.features.rows import Estimate, Outcome, Rival, Rows, Verdict
from selfmask.maskfile.loading import load
from selfmask.maskfile.saving import save_mask
from selfmask.reports.chart import DataTable
from selfmask.reports.frame import _finalised
from selfmask.reports.gather import gather
from selfmask.reports.headline import display_name, headline
from selfmask.reports.neighbours import same_class_share, strip_table, strips
from selfmask.reports.page import Material, build_report, printed, warnings_of
from selfmask.reports.reading import read_run
from selfmask.reports.results import scale_of
from selfmask.reports.sections import of_waffle, squares
from selfmask.reports.study import study
from selfmask.reports.wording import count, duration, listed, percent, points, size
from selfmask.run.folder import RunFolder
from selfmask.run.result import CascadePart, Check, Cluster, Result


def bits(count: int, right: int) -> torch.Tensor:
    return torch.arange(count) < right


VOID = {"meta", "link", "img", "col", "br"}
SVG_VOID = {"path", "use", "rect", "image"}


class Checker(HTMLParser):
    """Elements are closed in order; identifiers are unique; pictures have text alternatives."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.identifiers: list[str] = []
        self.targets: list[str] = []
        self.words: list[str] = []
        self.unnamed = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "id" in given:
            self.identifiers.append(str(given["id"]))
        self.targets += [str(given[k]) for k in ("href", "src", "xlink:href", "action") if given.get(k)]
        self.unnamed += tag == "img" and not given.get("alt")
        self.unnamed += given.get("role") == "img" and not given.get("aria-label")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert len(checker.identifiers) == len(set(checker.identifiers))
    assert checker.unnamed == 0
    for target in checker.targets:
        assert target.startswith(("#", "data:")), target
        assert not target.startswith("#") or target[1:] in checker.identifiers, target
    assert "<script" not in page
    return checker


def full(run) -> Material:
    theta = dict(run.backbone.module.named_parameters())
    seen = run.seen()
    return Material(masks=run.masks, theta=theta, seen=seen, strips=strips(seen, queries=3))


def test_the_pretrained_network_at_its_best_is_in_the_first_paragraph(tiny_run) -> None:
    read = read_run(tiny_run.path)
    assert read.result is not None
    assert read.rows is not None
    best, gain = Estimate(0.9, 0.8, 0.95), Estimate(-0.1, -0.2, -0.05)
    rival = Rival("pretrained, 224 px", best, "masked", gain, "probe")
    result = replace(read.result, rows=replace(read.rows, rival=rival))
    sentence = headline(replace(read, result=result)).sentence
    assert "at its best (pretrained, 224 px) reaches 90.0\N{NO-BREAK SPACE}% by linear probe" in sentence
    assert "the mask is −10.0 points (−20.0 to −5.0): where that can be had, keep the pretrained" in sentence
    itself = replace(rival, row=read.rows.rows[0].name)
    result = replace(read.result, rows=replace(read.rows, rival=itself))
    assert "at its best" not in headline(replace(read, result=result)).sentence


def test_no_line_is_broken_within_an_interval_or_before_a_unit() -> None:
    shown = _finalised("+1.3 to −10.5 and 95 % of 13.7 MB; 3 to come")
    assert shown.replace("\N{NO-BREAK SPACE}", "_") == "+1.3_to_−10.5 and 95_% of 13.7_MB; 3 to come"


@pytest.mark.parametrize(
    ("kept", "ending"), [(True, "+1.0 to +3.0)."), (False, "Keep the pretrained network.")]
)
def test_how_the_mask_stood_its_check_is_on_the_page(tiny_run, kept: bool, ending: str) -> None:
    read = read_run(tiny_run.path)
    assert read.result is not None
    check = Check(60, Estimate(0.02, 0.01, 0.03), kept)
    sentence = headline(replace(read, result=replace(read.result, check=check))).sentence
    assert "On 60 training images held out, it was +2.0 points from a linear probe" in sentence
    assert sentence.endswith(ending)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_a_result_with_what_is_no_number_is_refused(tiny_run, tmp_path: Path, value: str) -> None:
    path = tmp_path / "result.json"
    text = (tiny_run.path / "result.json").read_text()
    path.write_text(re.sub(r'("total": )[\d.]+', rf"\1{value}", text))
    with pytest.raises(RunError, match=f"{value} is no number"):
        Result.read(path)


def test_a_finished_run(tiny_run) -> None:
    report = build_report(read_run(tiny_run.path), full(tiny_run))
    page = checked(report.html)
    assert report.headline.title == "tiny on tiny"
    assert report.headline.verdict == "It helped."
    off = sum(int((~mask).sum()) for mask in tiny_run.masks.values())
    total = sum(mask.numel() for mask in tiny_run.masks.values())
    expected = (
        f"Learning from labelled images switched off {percent(off / total)} of {total} weights of tiny. On 500 "
        "images of tiny that it was not trained on, the trained head is right for 70.0 %, against 50.0 % for the "
        "pretrained network and a linear probe: +20.0 points"
    )
    assert report.headline.sentence.replace("\N{NO-BREAK SPACE}", " ").startswith(
        expected.replace("\N{NO-BREAK SPACE}", " ")
    )
    assert ("1 min 23 s", "of training: 30 steps over 40 images (2 CPU threads)") in report.headline.tiles
    assert [chart.name for chart in report.charts] == [
        "results", "embedding", "training", "densities-by-depth", "densities-by-stage", "magnitudes", "filters", "size",
    ]  # fmt: skip
    assert {chart.name for chart in report.charts} | {"neighbours", "making"} <= set(page.identifiers)
    assert "selfmask adapt some/folder/tiny --seed 3" in "".join(page.words)
    assert report.notes == ()
    order = [name for name in page.identifiers if f"{name}-title" in page.identifiers]
    assert order[:2] == ["neighbours", "results"]  # what the images show first, what the weights show last
    assert order[-2:] == ["share-off", "making"]
    assert report.html.startswith("<!DOCTYPE html>")


def test_accuracies_have_one_decimal_and_losses_are_told_apart(tiny_run) -> None:
    words = "".join(checked(build_report(read_run(tiny_run.path), full(tiny_run)).html).words)
    words = words.replace("\N{NO-BREAK SPACE}", " ")
    for share in ("40.0 %", "50.0 %", "64.0 %", "70.0 %"):
        assert share in words
    assert "▲ +24.0" in words
    assert "▼ −4.0" in words
    table = DataTable(("a", "b", "c"), ((0.5, 1, 1234.5), (0.25, None, 0.125)))
    assert printed(table) == [("0.5000", "1", "1234.5"), ("0.2500", "–", "0.1")]


def test_the_scale_of_accuracies_ends_at_100() -> None:
    def scale(*right: int) -> tuple[float, float]:
        return scale_of(Rows.of([Outcome(str(n), knn=bits(400, n)) for n in right]))

    assert scale(398, 400) == (90, 100)
    assert scale(0, 2) == (0, 100)
    assert scale(150, 260) == (30, 100)


def test_names_from_files_cannot_become_markup(tiny_run) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    for name in ("settings.json", "result.json"):
        content = json.loads((tiny_run.path / name).read_text(encoding="utf-8"))
        content.update(data=evil, backbone=evil, command=[evil], warnings=[evil])
        (tiny_run.path / name).write_text(json.dumps(content), encoding="utf-8")
    page = build_report(read_run(tiny_run.path), full(tiny_run)).html
    checked(page)
    assert "<img src=x" not in page
    assert str(escape(evil)) in page
    assert "<b>ant</b>" not in page  # a class name
    assert re.search(r'http-equiv="Content-Security-Policy" content="default-src \'none\'', page)


def test_an_interrupted_run(tiny_run) -> None:
    for name in ("mask.safetensors", "result.json"):
        (tiny_run.path / name).unlink()
    log = tiny_run.path / "log.jsonl"
    log.write_text(log.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    run = read_run(tiny_run.path)
    report = build_report(run, Material())
    checked(report.html)
    assert not run.finished
    assert report.headline.status == "A learnt mask, interrupted after step 25 of 30"
    assert "no mask and no result" in report.headline.sentence
    assert report.notes[0].startswith("The run stopped after step 25 before it wrote a mask")
    assert "cut off" in report.notes[1]
    assert [chart.name for chart in report.charts] == ["training"]


def test_a_run_that_never_began(tiny_run) -> None:
    for name in ("mask.safetensors", "result.json", "log.jsonl"):
        (tiny_run.path / name).unlink()
    report = build_report(read_run(tiny_run.path), Material())
    checked(report.html)
    assert report.headline.status.endswith("not started")


def test_a_damaged_mask_is_said(tiny_run) -> None:
    mask = tiny_run.path / "mask.safetensors"
    mask.write_bytes(mask.read_bytes()[:-5])
    report = build_report(read_run(tiny_run.path), Material())
    checked(report.html)
    assert any("mask.safetensors" in note for note in report.notes)
    assert not any("before it wrote a mask" in note for note in report.notes)
    assert [chart.name for chart in report.charts] == ["results", "training"]


def test_a_mask_file_by_itself(tiny_run) -> None:
    run = read_run(tiny_run.path / "mask.safetensors")
    report = build_report(run, Material(masks=run.mask.masks() if run.mask else None))
    checked(report.html)
    assert report.headline.sentence.endswith("how good that is was not measured.")
    assert "results" not in [chart.name for chart in report.charts]


def test_a_mask_that_turned_nothing_off(tiny_run, tmp_path: Path) -> None:
    theta = {"w": torch.randn(4, 4)}
    masks = {"w": torch.ones(4, 4, dtype=torch.bool)}
    path = save_mask(tmp_path / "m.safetensors", theta=theta, masks=masks, rest={})
    report = build_report(read_run(path), Material(masks=masks, theta=theta))
    checked(report.html)
    assert "switched off none of 16 weights" in report.headline.sentence
    assert any("Nothing was switched off" in note for note in report.notes)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds none of settings\.json"):
        read_run(tmp_path)
    with pytest.raises(RunError, match="does not exist"):
        read_run(tmp_path / "nowhere")


def test_an_unfinished_cascade(tiny_run, tmp_path: Path) -> None:
    cascade = tmp_path / "cascade"
    cascade.mkdir()
    (cascade / "settings.json").write_text(json.dumps({"data": "x", "experts": 2}), encoding="utf-8")
    (cascade / "dispatcher").mkdir()
    assert "“selfmask cascade … --resume” goes on" in read_run(cascade).problems[0]
    (cascade / "dispatcher").rmdir()
    tiny_run.path.rename(cascade / "dispatcher")
    run = read_run(cascade)
    assert run.is_cascade
    report = build_report(run, Material())
    checked(report.html)
    assert report.headline.status == "A learnt cascade of masks, dispatcher learnt"
    assert "the dispatcher and 0 experts are learnt" in report.notes[0]


def test_a_cascade(tiny_run, tmp_path: Path) -> None:
    theta = {name: p.detach() for name, p in tiny_run.backbone.module.named_parameters() if p.ndim == 4}
    rest = {name: p.detach() for name, p in tiny_run.backbone.module.named_parameters() if p.ndim != 4}
    experts = []
    for number in (1, 2):
        masks = {name: torch.rand(t.shape) < 0.9 for name, t in theta.items()}
        experts.append(
            load(save_mask(tmp_path / f"{number}.safetensors", theta=theta, masks=masks, rest=rest))
        )
    features = torch.cat([torch.randn(40, 8) + 9, torch.randn(40, 8) - 9])
    router, _, _ = fit_router(features, 2)
    folder = tmp_path / "cascade"
    folder.mkdir()
    tiny_run.path.rename(folder / "dispatcher")
    dispatcher = (folder / "dispatcher" / "mask.safetensors").read_bytes()
    write_cascade(
        folder / "cascade.safetensors", dispatcher=dispatcher, experts=experts, router=router, fusions={}
    )
    rows = Rows.of([Outcome("pretrained", knn=bits(90, 40)), Outcome("unconditional", knn=bits(90, 70))])
    clusters = tuple(Cluster(e, 40, 40, ("a", "b"), (0.5 + e / 4, 1.0)) for e in (0, 1))
    result = RunFolder(folder / "dispatcher").result()
    part = CascadePart(2, "gmm", (), {}, {}, clusters)
    replace(result, objective="distil", rows=rows, cascade=part).write(folder / "result.json")
    (folder / "settings.json").write_text(json.dumps({"data": "nowhere", "experts": 2}), encoding="utf-8")
    run = read_run(folder)
    report = build_report(run, gather(run, base=tiny_run.backbone))
    checked(report.html)
    assert report.headline.status == "A learnt cascade of masks, finished"
    assert report.headline.verdict == "It helped."
    assert " in the dispatcher" in report.headline.sentence
    assert "of the dispatcher’s masked weights off" in report.headline.tiles[0][1]
    nothing = [
        any("Nothing was" in w for w in warnings_of(one, 0.0)) for one in (run, replace(run, cascade=None))
    ]
    assert nothing == [False, True]
    named = {chart.name: chart for chart in report.charts}
    assert [(r["expert"], r["share"]) for r in named["clusters"].data.records()] == [
        (1, 0.5), (1, 1.0), (2, 0.75), (2, 1.0),
    ]  # fmt: skip
    pairs = {frozenset((str(r["a"]), str(r["b"]))) for r in named["similarity"].data.records()}
    assert pairs == {frozenset(p) for p in combinations(("dispatcher", "expert 1", "expert 2"), 2)}
    assert {r["part"] for r in named["size"].data.records()} >= {"dispatcher", "experts", "router"}
    assert [note for note in report.notes if "images could not be shown" in note]
    # The file by itself, and its members beside one another.
    assert read_run(folder / "cascade.safetensors").cascade is not None
    labels = [s.label for s in study([folder]).subjects]
    assert labels == ["cascade, dispatcher", "cascade, expert 1", "cascade, expert 2"]


def test_statistics_that_do_as_well_are_a_warning(tiny_run) -> None:
    result = json.loads((tiny_run.path / "result.json").read_text(encoding="utf-8"))
    result["rows"]["rows"][1]["knn"] = {"value": 0.9, "low": 0.8, "high": 0.95}
    result["rows"]["images"] = 50
    (tiny_run.path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    notes = build_report(read_run(tiny_run.path), Material()).notes
    assert any("running statistics alone" in note for note in notes)
    assert any("Only 50 test images" in note for note in notes)


def test_neighbours_are_those_of_the_features(tiny_run) -> None:
    seen = tiny_run.seen()
    assert not torch.equal(seen.before, seen.after)
    # The base is what it was.
    again = tiny_run.seen()
    assert torch.equal(again.before, seen.before)
    (strip,) = strips(seen, queries=1)
    cosine = torch.nn.functional.cosine_similarity(seen.after, seen.after[strip.query][None])
    cosine[strip.query] = -2
    assert list(strip.after) == cosine.topk(5).indices.tolist()
    rows = strip_table(seen, [strip]).records()
    assert len(rows) == 10
    assert {row["query"] for row in rows} == {seen.images.names[strip.query]}
    share = same_class_share(seen, neighbours=1)
    assert share is not None
    labels = seen.images.labels
    expected = []
    for side in (seen.before, seen.after):
        unit = torch.nn.functional.normalize(side, dim=1)
        alike = unit @ unit.T - 9 * torch.eye(len(unit))
        expected.append(float((labels[alike.argmax(dim=1)] == labels).float().mean()))
    assert share == pytest.approx(expected)


@pytest.mark.parametrize(
    ("share", "marked"), [(0, 0), (1e-7, 1), (0.0004, 1), (0.0015, 2), (0.5, 500), (1, 1000)]
)
def test_a_thousand_squares(share: float, marked: int) -> None:
    assert squares(share) == marked
    drawing = of_waffle(share).picture
    off, on = (drawing[name].count("M") for name in ("off", "kept"))
    assert (off, on) == (marked, 1000 - marked)


def test_words() -> None:
    plain = [
        percent(s).replace("\N{NO-BREAK SPACE}", " ") for s in (0, 1, 0.0213, 0.00041, 0.123, 0.998, 0.99997)
    ]
    assert plain == ["0 %", "100 %", "2.1 %", "0.041 %", "12 %", "99.80 %", "99.9970 %"]
    assert percent(0.6234, 3).startswith("62.3")
    assert points(-0.0251) == "−2.5 points"
    assert [size(n) for n in (12, 61_234, 144_000, 13_700_000)] == [
        "12 bytes",
        "61.2 kB",
        "144 kB",
        "13.7 MB",
    ]
    assert [count(n) for n in (400, 11_200_000)] == ["400", "11.2 million"]
    assert [duration(s) for s in (7.4, 60, 83.4, 7500)] == ["7 s", "1 min", "1 min 23 s", "2 h 5 min"]
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert [display_name(n) for n in ("timm:resnet18", "/data/dtd/", "package:a_b", "C:")] == [
        "resnet18",
        "dtd",
        "a_b",
        "C:",
    ]
    verdicts = [
        Verdict.on(Estimate(0, *ends), "It", "top-1").words
        for ends in ((0.01, 0.1), (-0.2, -0.1), (-0.1, 0.1))
    ]
    assert verdicts == ["It helped.", "It harmed.", "No clear difference."]
