"""Whatever is sent, it gets its own answer (4xx), and the next who asks is answered as if nothing had been."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from selfmask.errors import SettingsError
from selfmask.serve.access import Access, token_of
from selfmask.serve.intake import Refused
from selfmask.serve.settings import ServeSettings

Serving = Callable[..., Any]
TOKEN = "sixteen-letters-or-more"


def fine(running: Any, image: bytes) -> bool:
    """Whether the service still answers as the bank does."""
    found = running.post("/masks/a/embed", [("x", image)])
    if found.status != 200:
        return False
    x = torch.tensor([found.json["results"][0]["embedding"]])
    return torch.allclose(x, running.bank.embed([image], "a"), rtol=1e-4, atol=1e-5)


def test_bodies_and_names_that_cannot_be(serving: Serving, picture: Callable[..., bytes]) -> None:
    with serving(max_body="20 kB", max_images=3) as running:
        typed = {"Content_Type": "application/json"}
        multi = {"Content_Type": "multipart/form-data; boundary=xYx"}
        for path, body, headers, status in (
            ("/masks/a/embed", b"x" * 20_001, typed, 413),
            ("/masks/a/embed", b"", typed, 400),
            ("/masks/a/embed", b"{", typed, 400),
            ("/masks/a/embed", b'{"images": []}', typed, 400),
            ("/masks/a/embed", b'{"images": [1]}', typed, 400),
            ("/masks/a/embed", b'{"images": ["AA==", "AA==", "AA==", "AA=="]}', typed, 413),
            ("/masks/a/embed", b'{"images": ["AA=="], "names": []}', typed, 400),
            ("/masks/a/embed", b'{"images": ["AA=="], "other": 1}', typed, 400),
            ("/masks/a/embed", b'{"images": ["\xff"]}', typed, 400),
            ("/masks/a/embed", b"[" * 9000, typed, 400),
            ("/masks/a/embed", b"junk", multi, 400),
            ("/masks/a/embed", b"--xYx--\r\n", multi, 400),
            ("/masks/a/embed", b"--xYx\r\nno header\r\n", multi, 400),
            ("/masks/a/embed", b"junk", {"Content_Type": "multipart/form-data"}, 400),
            ("/masks/a/embed", b"junk", {"Content_Type": "text/plain"}, 415),
            ("/masks/d/embed", b"", typed, 404),
            ("/masks/..%2F..%2Fetc%2Fpasswd/embed", b"", typed, 404),
            ("/masks/../../etc/passwd", b"", typed, 404),
            ("/masks/%00/embed", b"", typed, 404),
            ("/masks/%1b%5b31m/embed", b"", typed, 404),
            ("/masks/%ff%fe/embed", b"", typed, 404),
            (f"/masks/{'n' * 5000}/embed", b"", typed, 404),
            ("/masks/a.mask.safetensors/embed", b"", typed, 404),
        ):
            found = running.ask("POST", path, body, **headers)
            assert found.status == status, (path, body[:40], found)
            assert found.json["error"]
            assert b"\x1b" not in found.body
        assert running.ask("DELETE", "/masks/a").status == 405
        assert running.post("/masks/a/embed", [("x", picture(1, 4))] * 4).status == 413
        chunks = running.ask("POST", "/masks/a/embed", iter([b"x" * 9000] * 3), **typed)  # no length is said
        assert chunks.status == 413
        assert fine(running, picture(1))


def test_without_a_token_only_this_machines_names_are_answered(serving: Serving) -> None:
    with serving() as running:
        for host in ("127.0.0.1", f"localhost:{running.port}", "[::1]:8000"):
            assert running.ask("GET", "/masks", Host=host).status == 200
        for host in ("evil.example", f"evil.example:{running.port}", "127.0.0.1.evil.example", "", "[::2]"):
            assert running.ask("GET", "/masks", Host=host).status == 421
        refused = running.ask("PUT", "/masks/new", (running.folder / "a.mask.safetensors").read_bytes())
        assert refused.status == 403
        assert not (running.folder / "new.mask.safetensors").exists()


WRONG = ("Bearer nonsense", "Bearer ", "", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "é")


def test_tokens(
    serving: Serving, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(TOKEN) as running:
        assert fine(running, picture(1))
        for wrong in WRONG:
            for path in ("/masks", "/metrics", "/masks/a", "/openapi.json", "/nowhere"):
                found = running.ask("GET", path, Authorization=wrong)
                assert (found.status, found.headers["www-authenticate"]) == (401, "Bearer")
        for path in ("/", "/health", "/ready"):
            assert running.ask("GET", path, Authorization="").status == 200
        assert running.ask("GET", "/masks", Host="any.example").status == 200
    monkeypatch.delenv("SELFMASK_TOKEN", raising=False)
    assert token_of(ServeSettings(tmp_path)) is None
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.org", "127.0.0.1.example.org", ""):
        with pytest.raises(SettingsError, match="needs a token"):
            token_of(ServeSettings(tmp_path, host=host))
    for short in ("", "short", "with a space in the middle", "ünïcödé-ünïcödé-ünïcödé"):
        (tmp_path / "token").write_text(short, encoding="utf-8")
        with pytest.raises(SettingsError, match="16 or more printable"):
            token_of(ServeSettings(tmp_path, token_file=tmp_path / "token"))
    with pytest.raises(SettingsError, match="cannot be read"):
        token_of(ServeSettings(tmp_path, token_file=tmp_path / "none"))
    (tmp_path / "token").write_text(f"{TOKEN}\n", encoding="utf-8")
    assert token_of(ServeSettings(tmp_path, host="0.0.0.0", token_file=tmp_path / "token")) == TOKEN
    monkeypatch.setenv("SELFMASK_TOKEN", TOKEN)
    assert token_of(ServeSettings(tmp_path)) == TOKEN
    assert Access(TOKEN).refusal("/masks", "", f"bearer {TOKEN}") is None


def test_masks_are_taken_whole_or_not_at_all(
    serving: Serving,
    picture: Callable[..., bytes],
    model: nn.Module,
    tmp_path: Path,
    write_mask: Callable[..., Path],
) -> None:
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    wrong = write_mask(tmp_path / "wrong.safetensors", other, 1).read_bytes()
    good = write_mask(tmp_path / "good.safetensors", model, 9).read_bytes()
    with serving(TOKEN) as running:
        before = sorted(path.name for path in running.folder.iterdir())
        for name, content, status in (
            ("new", wrong, 422), ("new", b"", 422), ("new", good[:-9], 422), ("new", b"\0" * 999, 422),
            ("base", good, 422), (".hidden", good, 422), ("n" * 300, good, 422), ("%1b", good, 422),
            ("..%2Fnew", good, 404), ("a", wrong, 422), ("a", good[:-9], 422),
        ):  # fmt: skip
            found = running.ask("PUT", f"/masks/{name}", content)
            assert found.status == status, (name, found)
            assert str(tmp_path) not in found.body.decode()
        assert sorted(path.name for path in running.folder.iterdir()) == before
        assert fine(running, picture(1))
        assert running.ask("PUT", "/masks/new", good).status == 201
        x = running.post("/masks/new/embed", [("x", picture(1))]).json["results"][0]["embedding"]
        assert running.ask("PUT", "/masks/a", good).status == 200
        assert running.post("/masks/a/embed", [("x", picture(1))]).json["results"][0][
            "embedding"
        ] == pytest.approx(x)
        assert fine(running, picture(1))


@pytest.mark.parametrize("memory", ["1 GB", "0"])
def test_a_mask_file_that_breaks_while_it_is_served(
    serving: Serving, picture: Callable[..., bytes], memory: str
) -> None:
    image = picture(1)
    with serving(memory=memory, watch=1000.0) as running:
        good = running.post("/masks/b/embed", [("x", image)]).json
        path = running.folder / "b.mask.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        for _ in range(3):
            found = running.post("/masks/b/embed", [("x", image)])
            if memory == "0":  # it has to be read again
                assert found.status == 503
                assert "changed" in found.json["error"]
            else:
                assert found.json == good
            assert fine(running, image)
        path.write_bytes(whole)
        assert running.post("/masks/b/embed", [("x", image)]).json == good


def test_a_full_queue_says_when_to_come_again(serving: Serving, picture: Callable[..., bytes]) -> None:
    with serving(queue=4, max_images=2, batch=2) as running, ThreadPoolExecutor(12) as pool:
        with running.bank.use("b"):
            asked = [pool.submit(running.post, "/masks/a/embed", [("x", picture(k))]) for k in range(12)]
            deadline = time.monotonic() + 15
            while sum(one.done() for one in asked) < 6 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert running.ask("GET", "/ready").status == 503
            assert running.ask("GET", "/health").status == 200
        found = [one.result() for one in asked]
        full = [one for one in found if one.status == 429]
        assert len(full) >= 6
        assert all(1 <= int(one.headers["retry-after"]) <= 60 for one in full)
        accepted = [k for k, one in enumerate(found) if one.status == 200]
        assert len(accepted) + len(full) == 12
        assert len(accepted) >= 4
        for k in accepted:
            x = torch.tensor([found[k].json["results"][0]["embedding"]])
            assert torch.allclose(x, running.bank.embed([picture(k)], "a"), rtol=1e-4, atol=1e-5)
        assert fine(running, picture(1))


def test_who_is_not_answered_in_time_is_told(serving: Serving, picture: Callable[..., bytes]) -> None:
    with serving(timeout=0.4) as running:
        with running.bank.use("b"):
            answers = [running.post("/masks/a/embed", [("x", picture(k))]) for k in range(2)]
        assert [one.status for one in answers] == [503, 503]
        assert all("retry-after" in one.headers for one in answers)
        assert len(running.service.queue) <= 1
        assert fine(running, picture(1))


def test_time_runs_for_what_comes_after_the_features_too(
    serving: Serving, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(timeout=0.4) as running:
        monkeypatch.setattr(running.bank, "predict_features", lambda *_, **__: time.sleep(1))
        assert running.post("/masks/b/predict", [("x", picture(1))]).status == 503


def test_a_mask_that_goes_while_it_is_asked_is_not_there(
    serving: Serving, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(watch=1000.0) as running:

        async def gone(name: str, images: Any) -> Any:
            running.bank.remove(name)
            raise Refused(422, "the views were made for another")

        monkeypatch.setattr(running.service, "_embed", gone)
        assert running.post("/masks/b/embed", [("x", picture(1))]).status == 404
        monkeypatch.undo()
        assert fine(running, picture(1))


def closed(connection: socket.socket) -> bytes:
    """All that comes until the other end closes; fails where it does not."""
    connection.settimeout(15)
    found = b""
    try:
        while part := connection.recv(1 << 16):
            found += part
    except ConnectionResetError:
        pass
    return found


def test_slow_clients_are_left(serving: Serving, picture: Callable[..., bytes]) -> None:
    start = b"POST /masks/a/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving(timeout=0.5) as running:
        where = ("127.0.0.1", running.port)
        slow = [socket.create_connection(where) for _ in range(6)]
        slow[1].sendall(start[:30])
        slow[2].sendall(start + b"Content-Length: 100\r\n\r\n{")
        slow[3].sendall(start + b"Transfer-Encoding: chunked\r\n\r\n")
        slow[4].sendall(whole + start[:20])
        slow[5].sendall(whole.replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n"))
        assert b" 200 " in slow[5].recv(4096).partition(b"\r\n")[0]
        slow[5].sendall(b"x")  # of a body that nobody needs, and that never ends
        assert closed(slow[0]) == b""
        assert closed(slow[1]) == b""
        assert b" 408 " in closed(slow[2]).partition(b"\r\n")[0]
        assert b" 408 " in closed(slow[3]).partition(b"\r\n")[0]
        assert b" 200 " in closed(slow[4]).partition(b"\r\n")[0]
        closed(slow[5])
        for junk in (b"\0" * 400, b"GET / HTTP/9\r\n\r\n", b"\x16\x03\x01" * 50, b"GET /" + b"a" * 100_000):
            with socket.create_connection(where) as odd:
                odd.sendall(junk)
                assert closed(odd).partition(b"\r\n")[0] in (b"", b"HTTP/1.1 400 Bad Request")
        for one in slow:
            one.close()
        assert fine(running, picture(1))


def _ask_on(deaf: socket.socket, request: bytes) -> None:
    """Ask, and never take an answer, until the other end is gone."""
    for _ in range(100_000):
        deaf.sendall(request * 50)


def test_a_client_that_stops_reading_is_cut(serving: Serving, picture: Callable[..., bytes]) -> None:
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving(timeout=0.5) as running:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", running.port))
            deaf.settimeout(15)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                _ask_on(deaf, request)
        deadline = time.monotonic() + 10
        while running.live.server.server_state.connections and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not running.live.server.server_state.connections
        assert fine(running, picture(1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": -1}, {"port": 70000}, {"queue": 0}, {"batch": 0}, {"max_images": 0}, {"max_pixels": 0},
        {"timeout": 0.0}, {"timeout": float("nan")}, {"watch": 0.0}, {"patience": -1.0}, {"max_body": "0"},
        {"max_body": "much"}, {"memory": "much"}, {"queue": 10, "max_images": 11},
    ],
)  # fmt: skip
def test_settings_that_cannot_be(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        ServeSettings(tmp_path, **wrong)
