"""What a file of embeddings says of itself: which network made them, of which images, and what was left out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

import msgspec

from selfmask._common.escape import encodable
from selfmask.cascades.fusion import Mode
from selfmask.errors import DataError
from selfmask.images.sources import Skipped
from selfmask.version import VERSION

FORMAT = 1
MOST_WIDTH = 2**24
MOST_LISTED = 10_000
"""Images left out that a record names; their number is always right."""


@dataclass(frozen=True)
class MadeBy:
    """A network that makes embeddings: how to know it again, and where it was found.

    digest: 32 hexadecimal digits, equal for networks that have every tensor and the preprocessing in common.
    kind: what was opened. path: of the mask file, the run's folder or the cascade, absolute; None for a backbone alone.
    mode: of a cascade's embedding. size: side of the views in pixels. backbone: see `Backbone.describe`. weights: the
    backbone's file of weights if it was given one, absolute.
    """

    digest: str
    kind: Literal["mask", "cascade", "backbone"]
    path: str | None
    mode: Mode | None
    size: int
    backbone: dict[str, Any]
    weights: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.path or self.backbone.get('spec')}"

    @property
    def short(self) -> str:
        """The same without the folders of this machine."""
        return f"{self.kind} {PurePath(self.path).name}" if self.path else str(self)


@dataclass(frozen=True)
class Record:
    """What the file says. images: where they lay, as `absolute` writes it. rows × width numbers of `dtype`.

    skipped: the images that were left out because they could not be read, the first `MOST_LISTED` of `left_out`.
    """

    made_by: MadeBy
    images: str
    rows: int
    width: int
    dtype: Literal["float32", "float16"]
    left_out: int = 0
    skipped: tuple[Skipped, ...] = field(default=())
    format: int = FORMAT
    selfmask: str = VERSION

    def json(self) -> str:
        """As JSON; `read` is the way back."""
        return encodable(json.dumps(msgspec.to_builtins(self), ensure_ascii=False))

    @classmethod
    def read(cls, text: str | bytes, where: str) -> Record:
        """What `json` wrote. Raises `DataError` that begins with `where` it stands."""
        try:
            found = msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise DataError(f"{where} does not say which network made it: {error}") from None
        found.check(where)
        return found

    def check(self, where: str) -> None:
        """Raises `DataError`, that begins with `where` it stands, for another format and for what cannot be."""
        if self.format != FORMAT:
            raise DataError(f"{where} is of format {self.format}, this selfmask reads {FORMAT}: update it")
        if self.rows < 0 or not 1 <= self.width <= MOST_WIDTH:
            raise DataError(f"{where} claims {self.rows} embeddings of width {self.width}: it is damaged")
