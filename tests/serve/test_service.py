"""The service answers what the bank answers, each image for itself, and groups what comes together by mask."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

Serving = Callable[..., Any]


def test_embeddings_are_the_banks(serving: Serving, picture: Callable[..., bytes]) -> None:
    files = [(f"{k}.png", picture(k)) for k in range(5)]
    with serving() as running:
        for name in ("a", "b", "c", "base"):
            found = running.post(f"/masks/{name}/embed", files)
            assert found.status == 200
            own = None if name == "base" else name
            expected = running.bank.embed([content for _, content in files], own)
            document = found.json
            assert (document["mask"], document["width"]) == (name, 10)
            assert [one["name"] for one in document["results"]] == [name for name, _ in files]
            assert torch.equal(torch.tensor([one["embedding"] for one in document["results"]]), expected)
            texts = {"images": [base64.b64encode(content).decode() for _, content in files]}
            again = running.ask(
                "POST", f"/masks/{name}/embed", json.dumps(texts).encode(), Content_Type="application/json"
            ).json
            assert [one["embedding"] for one in again["results"]] == [
                one["embedding"] for one in document["results"]
            ]
            assert [one["name"] for one in again["results"]] == list("01234")


def test_predictions_are_the_banks_and_words_of_files_are_shown(
    serving: Serving, picture: Callable[..., bytes]
) -> None:
    with serving() as running:
        found = running.post("/masks/b/predict?top=2", [("x", picture(1)), ("y", picture(2))])
        assert found.status == 200
        expected = running.bank.predict([picture(1), picture(2)], "b", top=2)
        shown = {"cat": "cat", "<b>dog</b>": "<b>dog</b>", "fish\u202e\x1b[31m": "fish\\u202e\\x1b[31m"}
        for one, prediction in zip(found.json["results"], expected, strict=True):
            assert one["label"] == shown[prediction.label]
            assert one["probability"] == pytest.approx(prediction.probability)
            assert [label for label, _ in one["top"]] == [shown[label] for label, _ in prediction.top]
        for path, words in (("a", "brings no head"), ("base", "no head")):
            refused = running.post(f"/masks/{path}/predict", [("x", picture(1))])
            assert refused.status == 422
            assert words in refused.json["error"]
        assert running.post("/masks/b/predict?top=0", [("x", picture(1))]).status == 422
        assert running.post("/masks/b/predict?top=x", [("x", picture(1))]).status == 422


def test_a_bad_image_fails_alone(serving: Serving, picture: Callable[..., bytes]) -> None:
    bad = picture(0)[:60]
    large = picture(1, 200)
    files = [
        ("a", picture(0)),
        ("bad\x1b[2J", bad),
        ("", b""),
        ("large", large),
        ("b", picture(2)),
        ("x", b"%PDF"),
    ]
    with serving(max_pixels=100 * 100) as running:
        found = running.post("/masks/a/embed", files)
        assert found.status == 200
        results = found.json["results"]
        assert ["embedding" in one for one in results] == [True, False, False, False, True, False]
        assert "over the limit of 10000" in results[3]["error"]
        assert "\x1b" not in results[1]["name"]
        expected = running.bank.embed([picture(0), picture(2)], "a")
        assert torch.equal(torch.tensor([results[0]["embedding"], results[4]["embedding"]]), expected)
        texts = {"images": ["!!", base64.b64encode(picture(0)).decode()], "names": ["\x1b", "b"]}
        found = running.ask(
            "POST", "/masks/a/embed", json.dumps(texts).encode(), Content_Type="application/json"
        )
        assert found.json["results"][0]["error"] == "not base64"
        assert found.json["results"][1]["embedding"] == pytest.approx(results[0]["embedding"], rel=1e-4)
        alone = running.post("/masks/a/embed", [("bad", bad)])
        assert (alone.status, "error" in alone.json["results"][0]) == (200, True)


def test_what_is_told_of_masks_and_of_the_service(serving: Serving, picture: Callable[..., bytes]) -> None:
    with serving() as running:
        assert running.ask("GET", "/masks").json == {"masks": ["a", "b", "c"], "base": "base", "refused": 0}
        card = running.ask("GET", "/masks/b").json
        assert (card["name"], card["predicts"], card["size"], card["classes"][0]) == ("b", True, 8, "cat")
        assert str(running.folder) not in json.dumps(card)
        assert running.ask("GET", "/masks/base").json["predicts"] is False
        assert running.ask("GET", "/health").json == {"alive": True}
        assert running.ask("GET", "/ready").json == {"ready": True}
        for name in "aab":
            running.post(f"/masks/{name}/embed", [("x", picture(1)), ("bad", b"")])
        assert running.metric("selfmask_images_total") == 3
        assert running.metric("selfmask_switches_total") == 2
        assert running.metric("selfmask_bad_images_total") == 3
        assert running.metric("selfmask_queue_images") == 0
        assert running.metric('selfmask_requests_total{kind="embed",status="200"}') == 3
        assert running.metric('selfmask_request_seconds_count{kind="embed"}') == 3
        assert running.metric("selfmask_queue_seconds_count") == 3


def test_what_waits_for_one_mask_goes_together_and_each_gets_its_own(
    serving: Serving, picture: Callable[..., bytes]
) -> None:
    order = "abacabcab" * 2
    found: dict[int, Any] = {}
    with serving(patience=20) as running:

        def ask(place: int) -> None:
            found[place] = running.post(f"/masks/{order[place]}/embed", [("x", picture(place))])

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(order))]
        with running.bank.use("c"):  # the worker waits, and the requests in the queue
            for thread in threads:
                thread.start()
            # The first batch is out, and stuck; all others wait.
            while running.metric("selfmask_queue_seconds_count") + len(running.service.queue) < len(order):
                threads[0].join(0.01)
        for thread in threads:
            thread.join()
        assert running.service.worker.counts.switches <= 4
        for place, name in enumerate(order):
            expected = running.bank.embed([picture(place)], name)
            x = torch.tensor([found[place].json["results"][0]["embedding"]])
            assert torch.allclose(x, expected, rtol=1e-4, atol=1e-5)
            other = running.bank.embed([picture(place)], "a" if name != "a" else "b")
            assert not torch.allclose(x, other, rtol=1e-2, atol=1e-3)


def test_a_stop_answers_what_was_accepted(serving: Serving, picture: Callable[..., bytes]) -> None:
    answers: list[Any] = []
    with serving() as running:
        ask = threading.Thread(
            target=lambda: answers.append(running.post("/masks/a/embed", [("x", picture(1))]))
        )
        with running.bank.use("b"):
            ask.start()
            while running.metric("selfmask_queue_seconds_count") == 0:
                ask.join(0.01)
            running.live.stop()
            ask.join(0.3)
            assert ask.is_alive()  # it waits for the model
        ask.join(20)
    assert [one.status for one in answers] == [200]


def test_a_mask_of_another_size_meanwhile_is_asked_anew(
    serving: Serving, picture: Callable[..., bytes], masks: Path, write_mask: Callable[..., Path], model: nn.Module,
    tmp_path: Path,
) -> None:  # fmt: skip
    other = write_mask(tmp_path / "other", model, 77, size=24).read_bytes()
    with serving(watch=1000.0) as running:
        whole, now = running.bank.preprocessing, [other]

        def preprocessing(name: str | None) -> Any:
            recipe = whole(name)
            if now:
                (masks / "a.mask.safetensors").write_bytes(now.pop())
                assert running.bank.refresh().changed == ("a",)
            return recipe

        running.bank.preprocessing = preprocessing
        answer = running.post("/masks/a/embed", [("x", picture(1))])
        assert not now
        assert answer.status == 200, answer
        x = torch.tensor([answer.json["results"][0]["embedding"]])
        assert torch.allclose(x, running.bank.embed([picture(1)], "a"), rtol=1e-4, atol=1e-5)


def test_a_mask_that_goes_while_it_is_asked_is_told(serving: Serving, picture: Callable[..., bytes]) -> None:
    with serving(watch=1000.0) as running:
        named = running.service.named

        def gone(name: str) -> str | None:
            found = named(name)
            if name in running.bank:
                running.bank.remove(name)
            return found

        running.service.named = gone
        answer = running.post("/masks/a/predict", [("x", picture(1))])
        assert answer.status == 422
        assert "no mask 'a'" in answer.json["error"]
