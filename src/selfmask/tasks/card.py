"""The card of a published mask: a page in Markdown with a YAML head, made from what the mask file says of itself.

The metadata may be a stranger's, so every value is taken as text: quoted in YAML, escaped in Markdown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from selfmask._common.escape import one_line
from selfmask.maskfile.mask import Mask
from selfmask.tasks.words import in_words, made_by

GENERATED = (
    "<!-- made by selfmask from the mask file; delete this line to keep your own changes at the next push -->"
)

PRIVACY = """\
A mask is derived from the images that it was learnt on. As gradients do, a mask that was learnt on private images can
leak something of them. To publish it is to publish derived data of those images: what holds for them holds for it."""

_MEASURES = {"knn": "k-NN", "probe": "linear probe", "head": "its own head"}
_SHOWN_CLASSES = 20


def model_card(
    mask: Mask,
    repo_id: str,
    *,
    filename: str,
    license: str = "unknown",
    rows: Mapping[str, Any] | None = None,
) -> str:
    """The card's text.

    Args:
        mask: the mask file.
        repo_id: "owner/name", for the code that fetches it.
        filename: the mask file's name in the repository.
        license: one of the hub's identifiers.
        rows: results, as `Rows.to_json` gives them; without them those in the metadata under "rows", if any.
    """
    results = _results(rows if rows is not None else mask.metadata.get("rows"))
    compaction = _compaction(mask)
    data = _part(mask, "training").get("data")
    sizes = mask.bytes()
    about = (
        f"A mask of {sizes['file']:,} bytes for {_code(mask.learnt_on or 'a network of its author’s own')}"
        f"{f', learnt on {_code(data)}' if data else ''}. It switches off {100 * (1 - mask.density()):.2f} % of "
        f"{mask.index.weights:,} weights{_beside(mask)}; the pretrained network itself is not in the file. "
        "Made by selfmask (Self-Masking Networks, arXiv 2409.07577)."
    )
    sections = [
        _head(mask, license),
        GENERATED,
        f"# {_text(repo_id.rpartition('/')[2])}",
        about,
        "## Use\n\n```python\n" + usage(mask, repo_id, filename) + "```",
        "## How it was learnt\n\n" + _table(("", ""), _facts(mask)),
        "## Bytes\n\n" + _table(("part", "bytes"), [(name, f"{n:,}") for name, n in sizes.items()]),
    ]
    if results or compaction:
        sections.append("## Results\n\n" + "\n\n".join(part for part in (results, compaction) if part))
    sections += [
        f"## Before you use or share it\n\n{PRIVACY}",
        f"## Licence\n\n{_text(license)}" + ("" if license != "unknown" else ": its author has not said."),
    ]
    return "\n\n".join(sections) + "\n"


def usage(mask: Mask, repo_id: str, filename: str) -> str:
    """Python that fetches the mask, checks the network and applies it; it runs as it stands where that can be built."""
    described = _part(mask, "backbone")
    named = f", filename={filename!r}" if filename != "mask.safetensors" else ""
    lines = ["import selfmask", "", f"mask = selfmask.from_hub({repo_id!r}{named})"]
    if isinstance(described.get("spec"), str):
        weights = ", weights=..." if described.get("weights") else ""
        note = f"  # the file {_line(described['weights']).replace('`', '’')}" if weights else ""
        # torch.hub runs the repository's code, which whoever reads the card has to want.
        named = ', mask.metadata["backbone"]["spec"]' if described["spec"].startswith("torchhub:") else ""
        fetch = "" if named else ", download=True"
        lines.insert(1, "import torch")
        lines += [
            f"backbone = selfmask.backbone_of(mask{named}{weights}{fetch}){note}",
            "size = backbone.preprocessing.size",
            "images = torch.zeros(1, 3, size, size)  # yours: RGB in [0, 1]",
            "with mask.apply(backbone.module), torch.no_grad():  # checks every weight of the backbone first",
            "    features = backbone.module(backbone.preprocessing.normalise(images))",
        ]
    else:
        lines += [
            "with mask.apply(model):  # model: the network that it was learnt on; every weight is checked first",
            "    features = model(images)",
        ]
    head = mask.head.get("weight")
    if head is not None and head.dim() == 2 and "bias" in mask.head:
        lines.append(
            'scores = features @ mask.head["weight"].float().T + mask.head["bias"].float()  # one for each class'
        )
    return "\n".join(lines) + "\n"


def _beside(mask: Mask) -> str:
    """What the file holds beside the masks, or that it holds nothing else."""
    kinds = {"norm weights": mask.norms, "batch statistics": mask.statistics, "parameters": mask.trained}
    own = [kind for kind, tensors in kinds.items() if tensors]
    return f", and has {' and '.join(own)} of its own" if own else " and changes no other"


def _head(mask: Mask, license: str) -> str:
    """The YAML head. Only what has the form of a name gets into it; a JSON string is a YAML scalar."""
    tags = ["selfmask", "self-masking-networks", "mask"]
    data = _part(mask, "training").get("data")
    if isinstance(data, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", data):
        tags.append(data)
    weight = mask.head.get("weight")
    task = "image-classification" if weight is not None else "image-feature-extraction"
    lines = [f"license: {_quoted(license)}", 'library_name: "selfmask"', f"pipeline_tag: {_quoted(task)}"]
    lines += ["tags:", *(f"- {_quoted(tag)}" for tag in tags)]
    base = base_repository(mask)
    if base is not None:
        lines += [f"base_model: {_quoted(base)}", 'base_model_relation: "adapter"']
    return "---\n" + "\n".join(lines) + "\n---"


def base_repository(mask: Mask) -> str | None:
    """The hub's repository of the base, where the backbone's specification names one; else None."""
    backbone = _part(mask, "backbone")
    kind, _, name = str(backbone.get("spec") or "").partition(":")
    if backbone.get("weights") or backbone.get("pretrained") is False:
        return None
    if kind == "timm" and re.fullmatch(r"[A-Za-z0-9_]+\.[A-Za-z0-9_]+", name):
        return f"timm/{name}"
    if kind == "hf" and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+", name):
        return name
    return None


def _facts(mask: Mask) -> list[tuple[str, str]]:
    backbone, training = _part(mask, "backbone"), _part(mask, "training")
    facts: list[tuple[str, Any]] = [
        ("backbone", mask.learnt_on or "a network of its author’s own"),
        ("its weights", backbone.get("weights")),
        ("its fingerprint", f"{mask.index.base.fingerprint} (XXH3-128)"),
        ("made by", made_by(mask.metadata)),
        ("data", training.get("data")),
        ("images", training.get("images")),
        ("labels used", training.get("labels")),
        ("classes", _classes(training.get("classes"))),
        ("objective", training.get("objective")),
        ("image size", training.get("size")),
        ("rule", in_words(_part(mask, "rule"))),
        ("selection", in_words(_part(mask, "selection"))),
        ("optimizer", training.get("method")),
        ("peak rate", training.get("rate")),
        ("steps × batch", _times(training)),
        ("batch norms", training.get("norm_stats")),
        ("seed", training.get("seed")),
        (
            "weights on",
            f"{100 * mask.density():.3f} % of {mask.index.weights:,} in {len(mask.names)} tensors",
        ),
        (
            "head",
            ", ".join(
                f"{name} {tuple(mask.head[name].shape)} {kind}" for name, kind in mask.head_dtypes.items()
            ),
        ),
        ("selfmask", mask.metadata.get("selfmask")),
    ]
    return [(name, _text(value)) for name, value in facts if value not in (None, "", [])]


def _results(rows: Any) -> str:
    """The rows as a table, where they are such; what is malformed is left out."""
    found = rows.get("rows") if isinstance(rows, Mapping) else None
    if not isinstance(found, Sequence):
        return ""
    members = [row for row in found if isinstance(row, Mapping) and isinstance(row.get("name"), str)]
    shown = [key for key in _MEASURES if any(_estimate(row.get(key)) for row in members)]
    if not shown:
        return ""
    table = _table(
        ("network", *(_MEASURES[key] for key in shown)),
        [(_text(row["name"]), *(_estimate(row.get(key)) or "–" for key in shown)) for row in members],
    )
    assert isinstance(rows, Mapping)
    return f"Top-1 on {_text(rows.get('images', 'the'))} test images, with 95 % intervals:\n\n{table}"


def _estimate(value: Any) -> str:
    if not isinstance(value, Mapping):
        return ""
    numbers = [value.get(key) for key in ("value", "low", "high")]
    if not all(isinstance(n, int | float) for n in numbers):
        return ""
    return "{:.3f} ({:.3f} to {:.3f})".format(*numbers)


def _compaction(mask: Mask) -> str:
    tested = _part(mask, "compaction").get("test")
    numbers = [tested.get(key) for key in ("before", "after")] if isinstance(tested, Mapping) else []
    if not numbers or not all(isinstance(n, int | float) for n in numbers):
        return ""
    assert isinstance(tested, Mapping)
    before, after = numbers
    return (
        f"The file was compacted: k-NN top-1 on {_text(tested.get('images'))} test images was {before:.3f} "
        f"before and is {after:.3f}."
    )


def _part(mask: Mask, key: str) -> Mapping[str, Any]:
    value = mask.metadata.get(key)
    return value if isinstance(value, Mapping) else {}


def _classes(classes: Any) -> str:
    if not isinstance(classes, list) or not classes:
        return ""
    more = f" and {len(classes) - _SHOWN_CLASSES} more" if len(classes) > _SHOWN_CLASSES else ""
    return f"{len(classes)}: {', '.join(str(one) for one in classes[:_SHOWN_CLASSES])}{more}"


def _times(training: Mapping[str, Any]) -> str:
    steps, batch = training.get("steps"), training.get("batch")
    return f"{steps} × {batch}" if steps and batch else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(value: Any) -> str:
    return one_line(" ".join(str(value).split()))


def _text(value: Any) -> str:
    """One line of plain text: nothing in it is Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#!~])", r"\\\1", _line(value).replace("&", "&amp;"))


def _code(value: Any) -> str:
    return f"`{_line(value).replace('`', '’')}`"


def _quoted(value: str) -> str:
    return json.dumps(value)
