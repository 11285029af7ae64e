"""From the body of a request to images: read within limits, multipart or JSON, each image decoded by itself."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from selfmask._common.escape import one_line
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.errors import SelfmaskError
from selfmask.images.decode import UnreadableImage, pixels_of
from selfmask.images.listing import Entry
from selfmask.images.view_set import ViewSet, view_set

_MOST_NAME = 200
_BODIES = 8
"""Of the largest size, that may be in memory together."""


class Refused(SelfmaskError):
    """A request that is answered by an error. after: seconds after which it may be tried again."""

    def __init__(self, status: int, message: str, after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.after = status, after


@dataclass(frozen=True)
class Upload:
    """An image of a request: its bytes, or why there are none. name: as the caller calls it, cleaned."""

    name: str
    content: bytes | str


class Bodies:
    """Reads bodies: each within `most` bytes and `seconds`, and all that are in use within eight times `most`."""

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, which counts until the block ends. Raises `Refused` (413, 408, 429, 400)."""
        said = request.headers.get("content-length", "")
        if said.isdigit() and int(said) > self.most:
            raise Refused(413, f"the body has {int(said)} bytes, over the limit of {self.most}")
        parts: list[bytes] = []
        size = 0
        try:
            try:
                async with asyncio.timeout(self.seconds):
                    async for part in request.stream():
                        size += len(part)
                        self._held += len(part)
                        if size > self.most:
                            raise Refused(413, f"the body is over the limit of {self.most} bytes")
                        if self._held > _BODIES * self.most:
                            raise Refused(429, "too many bodies are in memory: try again", after=1)
                        parts.append(part)
            except TimeoutError:
                raise Refused(408, f"the body did not come within {self.seconds:g} seconds") from None
            except ClientDisconnect:
                raise Refused(400, "the client has gone") from None
            yield b"".join(parts)
        finally:
            self._held -= size


class _Json(msgspec.Struct, forbid_unknown_fields=True):
    images: list[str]
    names: list[str] | None = None


async def uploads(request: Request, body: bytes, most: int) -> list[Upload]:
    """The images of a request's body, 1 to `most`. Raises `Refused` (400, 413, 415) where it has none or too many."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = await _multipart(request, body, most)
    elif kind == "application/json":
        found = _json(body, most)
    else:
        raise Refused(
            415, 'send images as multipart/form-data, or as JSON: {"images": ["BASE64", …], "names": […]}'
        )
    if not found:
        raise Refused(400, "the request brings no image")
    return found


async def _multipart(request: Request, body: bytes, most: int) -> list[Upload]:
    async def stream() -> AsyncIterator[bytes]:
        yield body
        yield b""

    parser = MultiPartParser(
        request.headers,
        stream(),  # pyright: ignore[reportArgumentType]
        max_files=most + 1,
        max_fields=most + 1,
    )
    parser.spool_max_size = len(body) + 1  # what is in memory anyhow stays there, and no disk is written to
    try:
        form = await parser.parse()
    except MultiPartException as error:
        _count(most + 1 if "many files" in error.message.lower() else 0, most)
        raise Refused(400, f"the multipart body is damaged: {one_line(error.message)}") from None
    except Exception as error:  # a damaged body can make a parser raise anything
        raise Refused(400, f"the multipart body is damaged: {one_line(str(error))[:200]}") from None
    try:
        files = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
        _count(len(files), most)
        return [
            Upload(_shown(one.filename or str(place)), await one.read()) for place, one in enumerate(files)
        ]
    finally:
        await form.close()


def _json(body: bytes, most: int) -> list[Upload]:
    try:
        given = msgspec.json.decode(body, type=_Json)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refused(400, f"the JSON is not what was expected: {one_line(str(error))[:200]}") from None
    _count(len(given.images), most)
    names = given.names if given.names is not None else [str(place) for place in range(len(given.images))]
    if len(names) != len(given.images):
        raise Refused(400, f"{len(names)} names for {len(given.images)} images")
    return [Upload(_shown(name), _bytes(text)) for name, text in zip(names, given.images, strict=True)]


def _count(count: int, most: int) -> None:
    if count > most:
        raise Refused(413, f"more than {most} images in a request")


def _bytes(text: str) -> bytes | str:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return "not base64"


def _shown(name: str) -> str:
    return one_line(name)[:_MOST_NAME]


def views_of(
    found: Sequence[Upload], recipe: Preprocessing, most_pixels: int
) -> tuple[ViewSet, dict[int, str]]:
    """The views of the readable images, in order, and by the place of each other one why it is none."""
    why: dict[int, str] = {}
    entries: list[Entry] = []
    for place, one in enumerate(found):
        try:
            if isinstance(one.content, str):
                raise UnreadableImage(one.content)
            pixels = pixels_of(one.content)
            if pixels > most_pixels:
                raise UnreadableImage(f"{pixels} pixels are over the limit of {most_pixels}")
        except UnreadableImage as error:
            why[place] = one_line(str(error))
            continue
        entries.append(Entry(str(place), lambda content=one.content: content))
    views, skipped = view_set(entries, recipe.size, recipe.crop, recipe.interpolation)
    return views, why | {int(one.name): one_line(one.reason) for one in skipped}
