"""The whole command line over damaged and hostile run folders, lists, weights, metadata and arguments.

Whatever they hold, a command works or ends with status 2 and one line of ours, and prints nothing that a terminal would
obey. A thousand cases; ten thousand by hand: `SELFMASK_FUZZ=10000 pytest tests/cli/test_fuzz.py`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import re
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as drawn_from
from hypothesis import strategies as st
from PIL import Image

import selfmask
from selfmask.cli import COMMANDS, main, named
from selfmask.errors import RunError
from selfmask.reports.chart import WIDE, Chart

CASES = int(os.environ.get("SELFMASK_FUZZ", "1000"))

# ---- what is there before anything is damaged


@dataclass(frozen=True)
class Ground:
    """A finished run, a second one, their base's weights, pictures, and lists of them."""

    root: Path

    def __getitem__(self, name: str) -> Path:
        return self.root / name


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Ground:
    root, random = tmp_path_factory.mktemp("ground"), np.random.default_rng(5)
    shutil.copy(weights, root / "w.safetensors")
    lines = ["file,label,split"]
    for kind in ("cat", "dog"):
        (root / "photos" / kind).mkdir(parents=True)
        for number in range(12):
            name = f"{kind}/{number:02}.png"
            Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(root / "photos" / name)
            lines.append(f"photos/{name},{kind},{'test' if number < 4 else 'train'}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    rows = [line.split(",") for line in lines[1:]]
    objects = [json.dumps({"file": file, "label": label, "split": part}) for file, label, part in rows]
    (root / "list.jsonl").write_text("\n".join(objects) + "\n")
    inside = [(file.removeprefix("photos/"), label, part) for file, label, part in rows]
    (root / "labels.csv").write_text(
        "file,label\n" + "".join(f"{file},{label}\n" for file, label, _ in inside)
    )
    parts = {part: [[f, 0, c] for f, c, p in inside if p == part] for part in ("train", "test")}
    (root / "splits.json").write_text(json.dumps(parts))
    for seed, name in enumerate(("run", "other")):
        selfmask.adapt(
            str(root / "photos"), out=root / name, weights=root / "w.safetensors", seed=seed, **SHORT
        )
    for name in ("e.parquet", "e.npy"):
        selfmask.embed(
            str(root / "run"), str(root / "photos"), out=root / name, weights=root / "w.safetensors"
        )
    return Ground(root)


SHORT: dict[str, Any] = {
    "backbone": "timm:test_resnet", "size": 32, "batch": 8, "steps": 3, "threads": 1, "test_share": 0.3, "lr": 0.4,
    "checkpoint_every": 2, "statistics": False,
}  # fmt: skip
FLAGS = [
    "--backbone", "timm:test_resnet", "--size", "32", "--batch", "8", "--steps", "3", "--threads", "1", "--test-share",
    "0.3", "--lr", "0.4", "--checkpoint-every", "2", "--no-statistics", "--weights", "W",
]  # fmt: skip

# ---- how it is damaged

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m"
TEXTS = [
    "", " ", "x" * 5000, ESCAPES, "\u202eevil\u2066", "half \ud800 character", "a\nb\r\nc", "\x00", "$x^{", "[red]x[/",
    "<script>alert(1)</script>", "../../../etc/passwd", "/dev/null", "~", "%s{0}", "NaN", "1e999", "-0", "timm:", ":",
    "torchhub:a/b:c", "hf:../..", "digits", "train", "supervised", "float16", "\u00e9\u0301", "🙂" * 40,
]  # fmt: skip
PLAIN: list[Any] = [None, True, False, 0, -1, 1, 7, 2**63, 10**400, 0.5, -0.0, 1e308, [], {}, [[]], {"a": {}}]
RAW = [
    "NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 20_000, "\"\\ud800\"", "{\"a\":1,\"a\":2}", "", "nul",
]  # fmt: skip
"""What JSON's own writer would not write."""

odd = st.one_of(
    st.sampled_from(TEXTS), st.sampled_from(PLAIN), st.text(max_size=8), st.integers(), st.floats()
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document, the root too."""
    found = [path]
    if isinstance(value, dict):
        found += [place for key, inner in value.items() for place in places(inner, (*path, key))]
    elif isinstance(value, list):
        found += [place for i, inner in enumerate(value[:3]) for place in places(inner, (*path, i))]
    return found


MARK = "\ue000raw\ue000"


@st.composite
def damaged_json(draw: st.DrawFn, document: Any) -> str:
    """`document` as JSON with something in it that is lost, doubled, or of another kind."""
    document = json.loads(json.dumps(document))
    raw = ""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(document)))
        value = copy.deepcopy(draw(odd))  # another place in it may be changed next
        if draw(st.integers(0, 5)) == 0:
            raw, value = draw(st.sampled_from(RAW)), MARK
        if not path:
            document = value if draw(st.booleans()) else document
            continue
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "nest"]))
        if what == "replace":
            holder[path[-1]] = value
        elif what == "nest":
            holder[path[-1]] = draw(st.sampled_from([[holder[path[-1]]], {"x": holder[path[-1]]}]))
        elif what == "remove":
            del holder[path[-1]]
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(TEXTS))] = holder.pop(path[-1])
    return json.dumps(document).replace(json.dumps(MARK), raw)


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` cut, with bytes changed, or something else altogether."""
    what = draw(st.sampled_from(["cut", "flip", "flip", "insert", "other", "twice"]))
    place = draw(st.one_of(st.integers(0, max(len(content) - 1, 0)), st.integers(0, 300)))
    if what == "cut":
        return content[:place]
    if what == "flip" and content:
        some = bytearray(content)
        for _ in range(draw(st.integers(1, 4))):
            some[place % len(some)] = draw(st.integers(0, 255))
            place = draw(st.integers(0, len(some) - 1))
        return bytes(some)
    if what == "insert":
        return content[:place] + draw(st.binary(max_size=20)) + content[place:]
    if what == "twice":
        return content + content
    return draw(
        st.sampled_from([b"", b"\0" * 64, b"\xff\xfe", b"\x80\x04]", b"PK\x03\x04", b"not what was meant\n"])
    )


@st.composite
def damaged_safetensors(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file whose header, or what lies as JSON in its metadata, is damaged."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header.get("__metadata__", {})
    inner = [key for key, text in metadata.items() if text[:1] in '{["']
    if inner and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(inner))
        metadata[key] = draw(damaged_json(json.loads(metadata[key])))
        text = json.dumps(header)
    else:
        text = draw(damaged_json(header))
    made = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(made)) + made + data


@st.composite
def damaged_parquet(draw: st.DrawFn, content: bytes) -> bytes:
    """A file of embeddings whose record or columns are damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(content))
    record = table.schema.metadata[b"selfmask"].decode()
    what = draw(st.sampled_from(["record", "record", "record", "column", "rows", "names"]))
    if what == "record":
        record = draw(damaged_json(json.loads(record)))
    elif what == "column":
        table = table.drop_columns([draw(st.sampled_from(table.column_names))])
    elif what == "rows":
        table = table.slice(0, draw(st.integers(0, len(table))))
    else:
        names = [
            draw(st.sampled_from([text for text in TEXTS if text.isprintable()])) for _ in range(len(table))
        ]
        table = table.set_column(0, table.schema.field(0), [names])
    made = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({b"selfmask": record.encode("utf-8", "surrogatepass")}), made
    )
    return made.getvalue()


@st.composite
def damaged_table(draw: st.DrawFn, content: bytes) -> bytes:
    """A CSV file with cells, lines or its header changed."""
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.integers(0, len(rows) - 1))
        cell = draw(st.integers(0, max(len(rows[row]) - 1, 0)))
        what = draw(st.sampled_from(["cell", "cell", "quoted", "longer", "shorter", "drop", "header"]))
        text = draw(st.one_of(st.sampled_from(TEXTS), st.text(max_size=6)))
        if what == "drop":
            rows[row:] = rows[row + 1 :] or [[""]]
        elif what == "longer":
            rows[row].append(text)
        elif what == "shorter":
            rows[row][cell:] = []
        elif what == "header":
            rows[0] = [
                draw(st.sampled_from(["file", "label", "split", "path", "class", ""])) for _ in rows[0]
            ]
        elif rows[row]:
            quoted = '"' + text.replace('"', '""') + '"'
            rows[row][cell] = quoted if what == "quoted" else text
    return "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")


@st.composite
def damaged_lines(draw: st.DrawFn, content: bytes) -> bytes:
    """A file of a JSON object a line, with one or two of them damaged."""
    lines = content.decode().splitlines()
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(lines) - 1))
        with contextlib.suppress(ValueError):
            lines[place] = draw(damaged_json(json.loads(lines[place])))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def saved(value: Any) -> bytes:
    made = io.BytesIO()
    torch.save(value, made)
    return made.getvalue()


@st.composite
def odd_weights(draw: st.DrawFn, content: bytes) -> bytes:
    """A file of weights as torch.save makes them, of odd things."""
    inner = draw(
        st.sampled_from([
            None, 3, "x", [], {}, [1, 2], {"state_dict": 3}, {"state_dict": {"a": "b"}}, {1: torch.ones(2)},
            {"conv1.weight": torch.ones(1)}, {"model": {"conv1.weight": None}}, torch.ones(3), {"a": {"b": {}}},
            {"conv1.0.weight": torch.ones(3, dtype=torch.complex64)}, {ESCAPES: torch.ones(1)}, {None: 1},
        ])
    )  # fmt: skip
    made = saved(inner)
    return draw(damaged_bytes(made)) if draw(st.booleans()) else made


Damage = Callable[[bytes], st.SearchStrategy[bytes]]


def as_json(content: bytes) -> st.SearchStrategy[bytes]:
    return damaged_json(json.loads(content)).map(lambda text: text.encode("utf-8", "surrogatepass"))


# ---- which command looks at it. RUN, FILE, … stand for paths; a command that takes seconds comes less often.

ON_RUN: list[tuple[int, list[str]]] = [
    (8, ["inspect", "RUN"]),
    (4, ["inspect", "RUN", "--tensors"]),
    (4, ["inspect", "RUN", "--json"]),
    (6, ["analyze", "RUN"]),
    (4, ["compare", "RUN", "OTHER", "--tensors"]),
    (3, ["combine", "OTHER", "RUN", "--out", "OUT"]),
    (4, ["push", "RUN", "me/x", "--preview"]),
    (4, ["apply", "RUN", "OUT", "--weights", "W"]),
    (2, ["apply", "RUN", "OUT"]),
    (1, ["export", "RUN", "OUT.onnx", "--head"]),
    (1, ["compact", "RUN", "PHOTOS", "--weights", "W", "--out", "OUT", "--images", "12", "--steps", "1"]),
    (2, ["embed", "RUN", "PHOTOS", "--weights", "W", "--out", "E.parquet"]),
    (2, ["predict", "RUN", "PHOTOS", "--weights", "W", "--out", "P.csv"]),
    (1, ["evaluate", "RUN", "--weights", "W", "--no-statistics"]),
]  # fmt: skip
RESUME = ["adapt", "PHOTOS", "--out", "RUN", *FLAGS, "--resume"]
REPORT = ["report", "RUN", "--images", "0", "--weights", "W"]
SETTINGS = [
    (14, ["evaluate", "RUN", "--weights", "W", "--no-statistics"]), (4, RESUME), (1, REPORT), (2, ["analyze", "RUN"]),
]  # fmt: skip
ON_LIST = [
    (6, ["adapt", "FILE", "--out", "OUT", *FLAGS]),
    (2, ["evaluate", "RUN", "--data", "FILE", "--weights", "W", "--no-statistics"]),
    (1, ["compact", "RUN", "FILE", "--weights", "W", "--out", "OUT", "--images", "12", "--steps", "1"]),
    (2, ["embed", "RUN", "FILE", "--weights", "W", "--out", "E.npy"]),
    (1, ["predict", "RUN", "PHOTO", "--data", "FILE", "--weights", "W", "--out", "P.csv"]),
]
ON_EMBEDDINGS = [
    (3, ["search", "E.parquet", "--query", "PHOTO"]),
    (1, ["search", "E.parquet", "--query", "PHOTO", "--out", "OUT.html"]),
]
ON_NPY = [(when, ["search", "E.npy", *words[2:]]) for when, words in ON_EMBEDDINGS]
TARGETS: dict[str, tuple[int, list[Damage], list[tuple[int, list[str]]]]] = {
    "run/mask.safetensors": (12, [damaged_safetensors, damaged_safetensors, damaged_bytes], ON_RUN),
    "run/settings.json": (3, [as_json, damaged_bytes], SETTINGS),
    "run/result.json": (3, [as_json, damaged_bytes], [(24, ["push", "RUN", "me/x", "--preview"]), (1, REPORT)]),
    "run/log.jsonl": (1, [damaged_lines, damaged_bytes], [(4, RESUME), (1, REPORT)]),
    "run/checkpoint.safetensors": (1, [damaged_safetensors, damaged_bytes], [(1, RESUME)]),
    "run/measured.safetensors": (1, [damaged_safetensors, damaged_bytes], [(1, RESUME)]),
    "run/split.safetensors": (1, [damaged_safetensors, damaged_bytes], [(1, ON_RUN[-1][1]), (1, RESUME)]),
    "list.csv": (5, [damaged_table, damaged_bytes], ON_LIST),
    "list.jsonl": (3, [damaged_lines, damaged_bytes], ON_LIST),
    "labels.csv": (2, [damaged_table, damaged_bytes], [(1, ["adapt", "PHOTOS", "--labels", "FILE", *FLAGS])]),
    "splits.json": (2, [as_json, damaged_bytes], [(1, ["adapt", "PHOTOS", "--split-file", "FILE", *FLAGS])]),
    "w.safetensors": (
        2, [damaged_safetensors, damaged_bytes],
        [(3, ["apply", "RUN", "OUT", "--weights", "FILE"]), (1, ["adapt", "PHOTOS", *FLAGS[:-1], "FILE"])],
    ),
    "e.parquet": (3, [damaged_parquet, damaged_parquet, damaged_bytes], ON_EMBEDDINGS),
    "e.json": (2, [as_json, damaged_bytes], ON_NPY),
    "e.npy": (1, [damaged_bytes], ON_NPY),
    "w.pth": (3, [odd_weights], [(1, ["apply", "RUN", "OUT", "--weights", "FILE"])]),
}  # fmt: skip


def weighted(choices: list[tuple[int, Any]]) -> st.SearchStrategy[Any]:
    return st.sampled_from([choice for times, choice in choices for _ in range(times)])


@dataclass(frozen=True)
class Case:
    """A file with `content` in place of its own (None: it is a folder, or gone), and a command that meets it."""

    file: str
    content: bytes | None
    folder: bool
    words: list[str]


@st.composite
def cases(draw: st.DrawFn, ground: Ground) -> Case:
    file = draw(weighted([(times, name) for name, (times, _, _) in TARGETS.items()]))
    _, damages, commands = TARGETS[file]
    words = draw(weighted(commands))
    if draw(st.integers(0, 30)) == 0:
        return Case(file, None, draw(st.booleans()), words)
    path = ground[file]
    content = draw(draw(st.sampled_from(damages))(path.read_bytes() if path.exists() else b""))
    return Case(file, content, False, words)


PARTS = 3  # so that two workers share the time


@pytest.mark.slow
@pytest.mark.timeout(max(300, CASES))  # seconds; ten thousand take longer
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_the_files_hold(ground: Ground, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    @drawn_from(part)
    @given(case=cases(ground))
    @settings(
        max_examples=CASES // 4, deadline=None, database=None,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=[*HealthCheck],  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    def run(case: Case) -> None:
        with tempfile.TemporaryDirectory() as folder:
            words = laid_out(case, ground, Path(folder))
            resumed = "--resume" in words
            with monkeypatch.context() as patched:
                if not resumed:  # far enough: what follows is about pictures and no longer about files
                    patched.setattr("selfmask.run.adapt.fit", stop)
                patched.setattr("selfmask.reports.chart.Chart.svg", laid_out_once)
                check(words)

    run()


def laid_out_once(chart: Chart, width: int = WIDE, prefix: str = "") -> str:
    """A drawing is laid out, with all its texts, but not printed, and not once more for a phone: half of the time."""
    if width == WIDE:
        chart.figure(width)
    return f'<svg viewBox="0 0 {width} 1"></svg>'


NUMBERS = [
    "nan", "inf", "-inf", "-1", "0", "1", "2", "0.5", "1e400", "1e-400", "0x10", "1_0", "²", "--", "-", "None", "",
]  # fmt: skip
WORDS = [text for text in TEXTS if "\x00" not in text]  # which no command line can have
CHOICES = [
    "topk",
    "progressive",
    "paper",
    "sgd",
    "text",
    "swav",
    "float16",
    "auto,*.bias",
    "re:(",
    "largest:50",
]
CALM = {
    "size": ["0", "-3", "8", "x", "nan"], "threads": ["0", "-1", "1", "x"], "backbone": ["", ":", "resnet81", "../x"],
    "batch": ["-1", "0", "2", "8"], "root": ["RUN", "FILE"], "endpoint": ["http://127.0.0.1:9"], "device": ["gpu", ""],
}  # fmt: skip
"""Where any value at all would take all memory, every thread, or a network's time."""
STEMS = [
    ["adapt", "PHOTOS", "--out", "OUT", *FLAGS], ["cascade", "PHOTOS", "--out", "OUT", *FLAGS], ["inspect", "RUN"],
    ["evaluate", "RUN", "--weights", "W", "--no-statistics"], ["apply", "RUN", "OUT", "--weights", "W"],
    ["compare", "RUN", "OTHER"], ["combine", "RUN", "OTHER", "--out", "OUT"], ["analyze", "RUN"], ["data", "list"],
    ["compact", "RUN", "PHOTOS", "--weights", "W", "--out", "OUT", "--images", "12", "--steps", "1"],
    ["predict", "RUN", "PHOTO", "--weights", "W", "--out", "P.csv"],
    ["search", "EMBEDDINGS", "--query", "PHOTO", "--k", "3"],
    ["embed", "RUN", "PHOTOS", "--weights", "W", "--out", "E.parquet"],
    ["push", "RUN", "me/x", "--preview"], ["pull", "me/x", "OUT", "--endpoint", "http://127.0.0.1:9"],
]  # fmt: skip


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command that works, with words put in, changed and left out."""
    words = list(draw(st.sampled_from(STEMS)))
    command = COMMANDS[words[0]]
    names = [f.name for f in fields(named(command.settings)) if f.name not in ("endpoint", "preview", "root")]
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(names))
        flag = f"--{name.replace('_', '-')}"
        values = CALM.get(name, [*NUMBERS, *CHOICES, *WORDS, "RUN", "FILE", "PHOTOS", "OUT"])
        value = draw(st.sampled_from(values))
        what = draw(st.sampled_from(["add", "add", "add", "joined", "bare", "drop", "swap", "odd"]))
        place = draw(st.integers(1, len(words)))
        if what == "add":
            words[place:place] = [flag, value]
        elif what == "joined":
            words.insert(place, f"{flag}={value}")
        elif what == "bare":
            words.insert(place, draw(st.sampled_from([flag, f"--no-{flag[2:]}", flag[:-1], flag.upper()])))
        elif what == "odd":
            words.insert(
                place, draw(st.sampled_from([*WORDS, "-x", "--", "--json", "--swav.count", "--text.x=1"]))
            )
        elif place < len(words) and words[place] not in ("--endpoint", "http://127.0.0.1:9", "--preview"):
            words[place : place + 1] = [] if what == "drop" else [value]
    return words


def test_whatever_the_words_say(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfmask.run.adapt.fit", stop)
    for name in ("SELFMASK_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")

    @given(line=command_lines())
    @settings(
        max_examples=CASES // 4, deadline=None, derandomize=True, database=None,
        suppress_health_check=[*HealthCheck],  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    def run(line: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder, monkeypatch.context() as patched:
            patched.chdir(folder)  # where a run goes by itself
            content = ground["list.csv"].read_bytes()
            check(laid_out(Case("list.csv", content, False, line), ground, Path(folder)))

    run()


def stop(*_: Any, **__: Any) -> Any:
    raise RunError("this is as far as the test goes")


EMBEDDINGS = ("e.parquet", "e.npy", "e.json")


def laid_out(case: Case, ground: Ground, folder: Path) -> list[str]:
    """The words with their paths, of a copy of what is there with the one file damaged."""
    run = folder / "run"
    run.mkdir()
    for path in ground["run"].iterdir():
        if path.is_file():
            shutil.copy(path, run)
    target = folder / case.file
    for name in ("list.csv", "list.jsonl"):  # lists name their files beside themselves
        if case.file == name:
            (folder / "photos").symlink_to(ground["photos"])
    for name in EMBEDDINGS if case.file in EMBEDDINGS else ():
        shutil.copy(ground[name], folder)
    if target.exists():
        target.unlink()
    if case.content is not None:
        target.write_bytes(case.content)
    elif case.folder:
        target.mkdir()
    names = {
        "RUN": run, "OTHER": ground["other"], "PHOTOS": ground["photos"], "W": ground["w.safetensors"], "FILE": target,
        "OUT": folder / "out", "OUT.onnx": folder / "out.onnx",
        "EMBEDDINGS": ground["e.parquet"], "PHOTO": ground["photos"] / "cat" / "00.png",
        "OUT.html": folder / "out.html", "P.csv": folder / "p.csv",
        "E.parquet": folder / "e.parquet", "E.npy": folder / "e.npy",
    }  # fmt: skip
    words = [str(names.get(word, word)) for word in case.words]
    if words[0] == "adapt" and "--out" not in words:
        words += ["--out", str(folder / "out")]
    return words


OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def check(words: list[str]) -> None:
    """The command works, or ends with one line of ours."""
    out, error = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        warnings.simplefilter("ignore")
        status = main(words)
    said = [line for line in error.getvalue().splitlines() if line.startswith(f"selfmask {words[0]}: ")]
    assert status in (0, 2)
    assert len(said) == (status == 2), error.getvalue()
    if said:
        assert error.getvalue().splitlines()[-1] == said[0]
    for text in (out.getvalue(), error.getvalue()):
        assert not (found := OBEYED.search(text)), repr(text[max(0, found.start() - 80) : found.end() + 20])
