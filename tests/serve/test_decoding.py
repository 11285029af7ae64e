"""Every kind of image file through HTTP: embedded as the decoder sees it, or an error of its own."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms

from selfmask.images.decode import UnreadableImage, decode

Serving = Callable[..., Any]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def huge_png() -> bytes:
    """900 megapixels in a kilobyte."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def image_set() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """By name: files that can be read, and files that cannot."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    kinds = ("PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG", "WEBP", "AVIF")
    good = {kind: encoded(image, kind) for kind in kinds}
    good |= {f"{mode}.png": encoded(image.convert(mode), "PNG") for mode in ("L", "1", "P", "LA", "RGBA")}
    good |= {f"cmyk.{kind}": encoded(image.convert("CMYK"), kind) for kind in ("JPEG", "TIFF")}
    wide = np.linspace(0, 65535, 512).astype(np.uint16).reshape(16, 32)
    good |= {f"16 bits.{kind}": encoded(Image.fromarray(wide), kind) for kind in ("PNG", "TIFF", "PPM")}
    good["float.tiff"] = encoded(Image.fromarray(wide.astype(np.float32)), "TIFF")
    good["nan.tiff"] = encoded(Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)), "TIFF")
    lab = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    good["lab.tiff"] = encoded(lab, "TIFF")
    frames = [Image.new("RGB", (12, 8), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        good[f"animated.{kind}"] = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        good[f"turned {orientation}.jpeg"] = encoded(image, "JPEG", exif=exif)
    junk = b"Exif\0\0II*\0\xff\xff\xff\xff"
    segment = b"\xff\xe1" + struct.pack(">H", len(junk) + 2) + junk
    good["exif of junk.jpeg"] = good["JPEG"][:2] + segment + good["JPEG"][2:]
    good["strip.png"] = encoded(Image.new("RGB", (3000, 2), (5, 6, 7)), "PNG")

    bad = {f"cut.{kind}": good[kind][: int(len(good[kind]) * 0.6)] for kind in kinds if kind != "PPM"}
    bad |= {
        "empty": b"",
        "text": b"hello",
        "drawing.svg": b"<svg/>",
        "magic.jpeg": b"\xff\xd8\xff",
        "magic.png": b"\x89PNG\r\n\x1a\n",
        "magic.gif": b"GIF89a",
        "page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
        "huge.png": huge_png(),
    }
    return good, bad


def test_the_decoders_image_set(serving: Serving) -> None:
    good, bad = image_set()
    for data in bad.values():  # the set is what it says
        try:
            decode(data)
        except UnreadableImage:
            continue
        raise AssertionError(data[:20])
    # Taking turns, so that each bad one stands between two good ones.
    order = [name for pair in zip(good, [*bad, *[""] * len(good)], strict=False) for name in pair if name]
    assert set(order) == {*good, *bad}
    with serving(max_images=len(order)) as running:
        found = running.post("/masks/a/embed", [(name, {**good, **bad}[name]) for name in order])
        assert found.status == 200
        results = dict(zip(order, found.json["results"], strict=True))
        for name in bad:
            assert results[name].keys() == {"name", "error"}, name
            assert 0 < len(results[name]["error"]) < 300
            # Alone it is no other, and nothing is lost with it.
            alone = running.post("/masks/a/embed", [(name, bad[name])])
            assert (alone.status, alone.json["results"][0]) == (200, results[name])
        embeddings = torch.tensor([results[name]["embedding"] for name in good])
        expected = running.bank.embed([good[name] for name in good], "a")
        torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5)
