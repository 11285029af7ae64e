"""The addresses: what can be asked for, and how it is answered."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selfmask._common.escape import printable
from selfmask.serve.access import Access
from selfmask.serve.front import Front
from selfmask.serve.intake import Bodies, Refused, Upload, uploads
from selfmask.serve.page import CSP, page
from selfmask.serve.settings import BASE
from selfmask.serve.taking import take_mask

_KINDS = frozenset({"embed", "predict", "search", "masks", "health", "ready", "metrics"})
_MOST_TOP = 1000


def make_app(service: Front, token: str | None) -> ASGIApp:
    """The service as an ASGI application. token: see `token_of`."""
    app = FastAPI(title="selfmask", docs_url=None, redoc_url=None)  # their pages come from elsewhere
    bodies = Bodies(service.settings.body_bytes, service.settings.timeout)
    metrics = service.metrics

    @asynccontextmanager
    async def images(request: Request) -> AsyncIterator[list[Upload]]:
        service.check_room()
        async with bodies.read(request) as body:
            yield await uploads(request, body, service.settings.max_images)

    @app.post("/masks/{name}/embed")
    async def embed(name: str, request: Request) -> Response:
        """Embeddings of images (multipart files, or JSON {"images": [base64, …], "names": […]})."""
        mask = service.named(name)
        async with images(request) as given:
            x, why = await service.embed(mask, given)
        rows = [] if x is None else [{"embedding": row} for row in x.tolist()]
        return _answer(
            {"mask": name, "width": service.bank.backbone.width, "results": _each(given, rows, why)}
        )

    @app.post("/masks/{name}/predict")
    async def predict(name: str, request: Request, top: int = 5) -> Response:
        """The most probable classes of images, by the mask's own head."""
        mask = service.named(name)
        if mask is None:
            raise Refused(422, "the untouched backbone has no head, so it cannot predict: name a mask")
        if not 1 <= top <= _MOST_TOP:
            raise Refused(422, f"top is how many classes are told, 1 to {_MOST_TOP}")
        async with images(request) as given:
            rows, why = await service.predict(mask, given, top)
        return _answer({"mask": name, "results": _each(given, rows, why)})

    @app.post("/masks/{name}/search")
    async def search(name: str, request: Request, k: int = 10) -> Response:
        """The nearest images of the mask's gallery, by the cosine."""
        mask = service.named(name)
        if not 1 <= k <= _MOST_TOP:
            raise Refused(422, f"k is how many images are told of each, 1 to {_MOST_TOP}")
        if mask not in service.gallery:
            raise Refused(422, f"there are no embeddings to search by {name!r}: start with --gallery")
        async with images(request) as given:
            rows, why = await service.search(mask, given, k)
        return _answer({"mask": name, "results": _each(given, rows, why)})

    @app.get("/masks")
    async def masks() -> Response:
        """The names."""
        found = service.masks
        return _answer({"masks": found, "base": BASE, "refused": len(service.bank.refused)})

    @app.get("/masks/{name}")
    async def card(name: str) -> Response:
        """What is known of a mask."""
        mask = service.named(name)
        if mask is None:
            backbone = service.bank.backbone
            return _answer(
                {
                    "name": BASE,
                    "size": backbone.preprocessing.size,
                    "predicts": False,
                    "learnt_on": backbone.spec,
                    "searches": None in service.gallery,
                }
            )
        found = (await service.aside(service.bank.card, mask)).document()
        del found["path"]  # where it lies is nobody's business
        return _answer({**found, "searches": mask in service.gallery})

    @app.put("/masks/{name}")
    async def put(name: str, request: Request) -> Response:
        """Take a mask file. Only where there is a token."""
        if token is None:
            raise Refused(403, "masks are taken only by a service that has a token (--token-file)")
        async with bodies.read(request) as content:
            new = await service.aside(take_mask, service.bank, service.settings.masks, name, content)
        return _answer({"mask": name, "bytes": len(content)}, 201 if new else 200)

    @app.get("/health")
    async def health() -> Response:
        """Whether the process is alive."""
        return _answer({"alive": True})

    @app.get("/ready")
    async def ready() -> Response:
        """Whether it answers: who works is there, and the queue has room."""
        fine = service.waiting < service.most_waiting and await service.alive()
        return _answer({"ready": fine}, 200 if fine else 503)

    @app.get("/metrics")
    async def numbers() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/")
    async def front() -> Response:
        """The page."""
        return Response(
            page(), media_type="text/html; charset=utf-8", headers={"content-security-policy": CSP}
        )

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _refusal(error.status, str(error), error.after)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _refusal(422, f"{'.'.join(map(str, first.get('loc', ())))}: {first.get('msg', '')}")

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return _refusal(error.status_code, str(error.detail))

    return _Gate(app, Access(token), service)


class _Gate:
    """Before the application: who may ask. After it: what is counted, and headers that every answer has."""

    def __init__(self, app: ASGIApp, access: Access, service: Front) -> None:
        self._app, self._access, self._metrics = app, access, service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, told = time.perf_counter(), 500, False
        last = scope["path"].rpartition("/")[2]
        kind = last if last in _KINDS else "masks" if scope["path"].startswith("/masks/") else "other"

        def tell() -> None:
            nonlocal told
            if not told:
                told = True
                self._metrics.request(kind, status, time.perf_counter() - start)

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS]
            elif not message.get("more_body", False):
                tell()
            await send(message)

        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        why = self._access.refusal(scope["path"], headers.get(b"host", ""), headers.get(b"authorization", ""))
        try:
            if why is not None:
                await _refusal(*why)(scope, receive, counted)
            else:
                await self._app(scope, receive, counted)
        finally:
            tell()


_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


def _each(given: list[Upload], rows: Sequence[Any], why: dict[int, str]) -> list[dict[str, Any]]:
    """One entry for each image of the request, in its order: its row, or its error."""
    left = iter(rows)
    return [
        {"name": one.name, **({"error": why[place]} if place in why else next(left))}
        for place, one in enumerate(given)
    ]


def _answer(document: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(printable(document)), status, media_type="application/json")


def _refusal(status: int, message: str, after: int | None = None) -> Response:
    """An error as a document. The connection ends with it, because the body may not have been read."""
    found = _answer({"error": message}, status)
    found.headers["connection"] = "close"
    if after is not None:
        found.headers["retry-after"] = str(after)
    if status == 401:
        found.headers["www-authenticate"] = "Bearer"
    return found
