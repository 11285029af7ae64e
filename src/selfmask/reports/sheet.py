"""The contact sheet of a search: each query, and the images that are nearest to it, on a page that stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from selfmask.embeddings.search import Hit
from selfmask.errors import DataError
from selfmask.images.sources import Content, decoded
from selfmask.reports.frame import rendered, thumbnail
from selfmask.reports.wording import count

MOST_QUERIES = 100
"""Queries that the sheet shows."""
_SIDE = 96


@dataclass(frozen=True)
class Answer:
    """What was found for the query called `query`, the nearest first."""

    query: str
    found: tuple[Hit, ...]


def contact_sheet(
    answers: Sequence[Answer],
    queries: Mapping[str, Content],
    images: Mapping[str, Content],
    *,
    searched: int,
    network: str,
    notes: Sequence[str] = (),
) -> str:
    """The page, HTML: `MOST_QUERIES` of the `answers` at most, with the pictures that are in `queries` and `images`.

    searched: how many images were. network: what made the embeddings, in words.
    """
    made: dict[tuple[int, str], dict[str, object]] = {}

    def picture(name: str, among: Mapping[str, Content]) -> dict[str, object]:
        key = id(among), name
        if key not in made:
            made[key] = _picture(among.get(name), name)
        return made[key]

    shown = [
        {
            "name": answer.query,
            "image": picture(answer.query, queries),
            "hits": [
                {"name": hit.path, "similarity": f"{hit.similarity:.3f}", "image": picture(hit.path, images)}
                for hit in answer.found
            ],
        }
        for answer in answers[:MOST_QUERIES]
    ]
    if len(answers) > MOST_QUERIES:
        notes = (*notes, f"The first {MOST_QUERIES} of {count(len(answers))} queries are shown.")
    absent = sum(image["source"] == "" for image in made.values())
    if absent:
        notes = (*notes, f"{absent} images are not where they were, and are shown by their names only.")
    one = len(answers) == 1
    title = (
        f"Like {PurePath(answers[0].query).name}"
        if one
        else f"{count(len(answers))} queries and what is like them"
    )
    sentence = f"The nearest of {count(searched)} images, by the cosine of the embeddings of {network}."
    return rendered("sheet.html", title=title, sentence=sentence, notes=notes, queries=shown)


def _picture(content: Content | None, name: str) -> dict[str, object]:
    if content is not None:
        try:
            source, side = thumbnail(decoded(content, 2 * _SIDE), _SIDE)
        except DataError:
            pass
        else:
            return {"source": source, "side": side, "alt": name}
    return {"source": "", "side": 0, "alt": name}
