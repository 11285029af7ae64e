"""What a newcomer should know after one look: a title, one sentence, and a few large figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from selfmask._common.units import signed
from selfmask.features.rows import Estimate, Row, Rows, Verdict
from selfmask.objectives.registry import is_label_free
from selfmask.reports.reading import ReadRun
from selfmask.reports.results import MEASURES, OURS
from selfmask.reports.wording import accuracy, count, duration, percent, points, size
from selfmask.run.result import Result


@dataclass(frozen=True)
class Headline:
    """The head of the page.

    Attributes:
        title: data and backbone.
        status: "A learnt mask, finished", "…, interrupted after step 120 of 400", …
        verdict: a few words of judgement, or "".
        tendency: "better" or "worse" where the verdict is clear, else "".
        sentence: what was done and what came out.
        tiles: (figure, what it is) pairs.
    """

    title: str
    status: str
    verdict: str
    tendency: str
    sentence: str
    tiles: tuple[tuple[str, str], ...]


def headline(run: ReadRun) -> Headline:
    """The headline of `run`, from whatever the folder holds."""
    data, backbone, objective = display_name(run.data or "images"), display_name(run.backbone), run.objective
    title = f"{data} on {backbone}" if backbone else data
    status = f"A learnt {'cascade of masks' if run.is_cascade else 'mask'}, {_status(run)}"
    if run.mask is None:
        return Headline(title, status, "", "", _stopped(run), _log_tiles(run))
    off, total = sum(run.mask.numel(n) - on for n, on in run.mask.on.items()), run.mask.index.weights
    share = off / total if total else 0.0
    how = (
        "without labels"
        if is_label_free(objective)
        else "from labelled images"
        if objective == "supervised"
        else ""
    )
    deed = (
        f"Learning {how}".strip()
        + f" switched off {percent(share) if off else 'none'} of {count(total)} weights "
        f"of {backbone or 'the network'}" + (" in the dispatcher" if run.is_cascade else "")
    )
    tiles: list[tuple[str, str]] = []
    agreement = None if run.result is None else run.result.agreement
    verdict, tendency = "", ""
    outcome = "; how good that is was not measured." if agreement is None else "."
    found = _main_measure(run.rows, objective)
    if found is not None and run.rows is not None:
        key, base, masked, gain = found
        subject = "The cascade" if run.is_cascade else "The mask"
        judged = Verdict.on(gain, subject, MEASURES[key])
        verdict, tendency = judged.words, judged.kind if judged.kind in ("better", "worse") else ""
        outcome = (
            f". On {count(run.rows.images)} images of {data} that it was not trained on, the {MEASURES[key]} is right "
            f"for {accuracy(masked.value)}, against {accuracy(base.value)} for the pretrained network"
            + (" and a linear probe" if key == "head" else "")
            + f": {points(gain.value)} (95 % interval {signed(gain.low)} to {signed(gain.high)})."
            + _beside(run.rows, subject.lower())
        )
    whose = "dispatcher’s masked weights" if run.is_cascade else "masked weights"
    tiles.append((percent(share), f"of the {whose} off ({count(off)} of {count(total)})"))
    stored, full = run.bytes()["file"], network_bytes(run)
    tiles.append(
        (size(stored), f"to store or send: {full / stored:,.0f} × less than the network’s {size(full)}")
    )
    if run.result is not None and not run.is_cascade:  # of which only the last call's stretch is known
        tiles.append((duration(run.result.seconds.training), _effort(run, run.result)))
    outcome += _checked(run.result)
    if agreement is not None:
        outcome += f" {agreement.sentence}"
    return Headline(title, status, verdict, tendency, deed + outcome, tuple(tiles))


def _beside(rows: Rows, subject: str) -> str:
    """What is left of the gain beside the best that could be had without a mask, where that is another row."""
    rival = rows.rival
    if rival is None or rival.row == rows.rows[0].name:
        return ""
    measure, gain = MEASURES[rival.measure], rival.gain
    sentence = (
        f" The pretrained network at its best ({rival.row}) reaches {accuracy(rival.accuracy.value)} by {measure}; "
        f"from that {subject} is {points(gain.value)} ({signed(gain.low)} to {signed(gain.high)})"
    )
    return sentence + ("." if gain.low > 0 else ": where that can be had, keep the pretrained network.")


def _checked(result: Result | None) -> str:
    """How the mask stood the check on training images held out, where there was one."""
    if result is None or result.check is None:
        return ""
    check = result.check
    sentence = (
        f" On {count(check.images)} training images held out, it was {points(check.gain.value)} from a linear probe of "
        f"the pretrained network ({signed(check.gain.low)} to {signed(check.gain.high)})"
        + (f", at the best of {len(result.rates)} rates by these images" if result.rates else "")
    )
    return sentence + (
        "."
        if check.kept
        else ": worse, so it was set aside as rejected.mask.safetensors. Keep the pretrained network."
    )


def network_bytes(run: ReadRun) -> int:
    """Bytes of all floating-point tensors of the base as float32."""
    if run.mask is None:
        return 0
    tensors = run.mask.index.base.tensors.values()
    return 4 * sum(math.prod(t.shape) for t in tensors if t.dtype.startswith(("F", "BF")))


def display_name(name: object) -> str:
    """A backbone or data set as people say it: without the kind in front, a path by its last part."""
    short = str(name).rstrip("/").rpartition("/")[2]
    kind, colon, rest = short.partition(":")
    return rest if colon and rest and kind.isidentifier() else short


def _main_measure(rows: Rows | None, objective: str) -> tuple[str, Estimate, Estimate, Estimate] | None:
    """The measure that the run's verdict goes by: the trained head where there is one, else k-NN."""
    if rows is None:
        return None
    named = {row.name: row for row in rows.rows}
    base = named.get("pretrained")
    masked = next((named[name] for name in OURS if name in named), None)
    if base is None or masked is None:
        return None
    order = ("knn", "probe", "head") if is_label_free(objective) else ("head", "knn", "probe")
    for key in order:
        reached, gain = getattr(masked, key), getattr(masked, f"{key}_gain")
        before = _before(base, key)
        if reached is not None and gain is not None and before is not None:
            return key, before, reached, gain
    return None


def _before(base: Row, key: str) -> Estimate | None:
    """A trained head is compared with the pretrained network's probe: see `features.rows.Row`."""
    return base.probe if key == "head" and base.head is None else getattr(base, key)


def _status(run: ReadRun) -> str:
    if run.finished:
        return "finished"
    if run.mask is not None:
        return "dispatcher learnt" if run.is_cascade and run.cascade is None else "mask learnt, not evaluated"
    return _reached(run)


def _reached(run: ReadRun) -> str:
    if not run.log.steps:
        return "not started"
    wanted = run.training.get("steps")
    of = f" of {wanted}" if isinstance(wanted, int) else ""
    return f"interrupted after step {run.log.steps[-1]['step'] + 1}{of}"


def _stopped(run: ReadRun) -> str:
    return (
        f"This run has not come to its end ({_reached(run)}), so there is no mask and no result to show yet."
    )


def _log_tiles(run: ReadRun) -> tuple[tuple[str, str], ...]:
    if not run.log.steps:
        return ()
    last = run.log.steps[-1]
    tiles = [(str(last["step"] + 1), "steps made")]
    if isinstance(last.get("off"), int | float):
        tiles.append((percent(last["off"]), "of the weights off so far"))
    if isinstance(last.get("loss"), int | float):
        tiles.append((f"{last['loss']:.3g}", "loss of the last logged batch"))
    return tuple(tiles)


def _effort(run: ReadRun, result: Result) -> str:
    steps, images = run.training.get("steps"), run.training.get("images")
    threads = result.machine.get("threads", "")
    parts = [f"of training: {steps} steps" if isinstance(steps, int) else "of training"]
    if isinstance(images, int):
        parts.append(f"over {count(images)} images")
    if threads.isdigit():
        parts.append(f"({threads} CPU thread{'s' if threads != '1' else ''})")
    return " ".join(parts)
