"""Every kind of image file is shown as a person would see it, or refused with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from selfmask.images.decode import EXTENSIONS, UnreadableImage, decode


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def shown(data: bytes, short_side: int | None = None) -> np.ndarray:
    pixels = decode(data, short_side)
    assert pixels.dtype == torch.uint8
    assert pixels.shape[0] == 3
    return pixels.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG", "WEBP", "AVIF"])
def test_an_ordinary_picture_is_what_it_was(paint: Any, format: str) -> None:
    image = paint(1)
    pixels = shown(encoded(image, format))
    error = np.abs(pixels.astype(int) - np.asarray(image))
    assert pixels.shape == (24, 40, 3)
    assert error.mean() < (12 if format in ("JPEG", "WEBP", "AVIF", "GIF") else 1e-9)


def test_a_path_and_its_bytes_give_the_same(paint: Any, tmp_path: Path) -> None:
    data = encoded(paint(), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    assert torch.equal(decode(tmp_path / "a.jpg"), decode(data))


def test_greyscale_one_bit_and_palette_become_rgb(paint: Any) -> None:
    grey = paint().convert("L")
    assert np.array_equal(shown(encoded(grey, "PNG")), np.repeat(np.asarray(grey)[..., None], 3, 2))
    black_white = paint().convert("1")
    assert np.array_equal(shown(encoded(black_white, "PNG"))[..., 0], np.asarray(black_white) * np.uint8(255))
    palette = paint().quantize(16)
    assert np.array_equal(shown(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_not_clipped(format: str) -> None:
    ramp = np.linspace(0, 65535, 512).astype(np.uint16).reshape(16, 32)
    pixels = shown(encoded(Image.fromarray(ramp), format))
    assert np.array_equal(pixels[..., 0], np.rint(ramp / 257).astype(np.uint8))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_16_bits_whose_white_is_0_are_turned_around() -> None:
    """As X-ray pictures often have it."""
    file, ramp = io.BytesIO(), np.linspace(0, 65535, 512).astype(np.uint16).reshape(16, 32)
    Image.fromarray(ramp).save(file, "TIFF", tiffinfo={262: 0})
    assert np.array_equal(shown(file.getvalue())[..., 0], 255 - np.rint(ramp / 257).astype(np.uint8))


def test_16_bits_are_told_by_the_file_and_not_by_what_is_brightest() -> None:
    dark = np.full((4, 4), 198, np.uint16)
    assert shown(encoded(Image.fromarray(dark), "PPM"))[0, 0, 0] == 1


def test_32_bits_without_a_sign_reach_white() -> None:
    values = np.array([[0, 2**31, 2**32 - 1, 1000]], np.uint32)
    file = encoded(Image.fromarray(values.view(np.int32)), "TIFF")
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, format, 0) for format in (2, 1))  # SampleFormat
    assert file.count(signed) == 1
    assert shown(file.replace(signed, unsigned))[0, :, 0].tolist() == [0, 128, 255, 0]


def test_16_bit_colour_keeps_its_high_byte() -> None:
    wide = (np.arange(6 * 5 * 3).reshape(6, 5, 3) * 700).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in wide)
    assert np.abs(shown(_png(5, 6, 16, 2, raw)).astype(float) - wide / 257).max() <= 1


def test_float_and_32_bit_greyscale() -> None:
    unit = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert np.array_equal(shown(encoded(Image.fromarray(unit), "TIFF"))[..., 0], np.rint(unit * 255))
    bytes_like = np.linspace(0, 255, 64, dtype=np.float32).reshape(8, 8)
    assert np.array_equal(shown(encoded(Image.fromarray(bytes_like), "TIFF"))[..., 0], np.rint(bytes_like))
    wide = np.linspace(-3000, 5000, 64, dtype=np.float32).reshape(8, 8)
    pixels = shown(encoded(Image.fromarray(wide), "TIFF"))[..., 0]
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert (np.diff(pixels.astype(int).ravel()) >= 0).all()
    broken = unit.copy()
    broken[0, 0] = np.nan
    assert shown(encoded(Image.fromarray(broken), "TIFF"))[7, 7, 0] == 255
    far = np.linspace(1000, 1100, 64, dtype=np.float32).reshape(8, 8)
    for values in (far, far - 2200):
        pixels = shown(encoded(Image.fromarray(values), "TIFF"))[..., 0]
        assert (pixels.min(), pixels.max()) == (0, 255), "from their own minimum to their own maximum"
    far[0, 0], far[7, 7] = np.nan, np.inf
    pixels = shown(encoded(Image.fromarray(far), "TIFF"))[..., 0]
    assert (pixels[0, 0], pixels[7, 7], pixels[7, 6]) == (0, 255, 255)
    for constant in (np.full((4, 4), 1000, np.float32), np.full((4, 4), np.nan, np.float32)):
        assert not shown(encoded(Image.fromarray(constant), "TIFF")).any()
    whole = np.linspace(0, 65535, 64, dtype=np.int32).reshape(8, 8)
    assert np.array_equal(shown(encoded(Image.fromarray(whole), "TIFF"))[..., 0], np.rint(whole / 257))


def test_transparency_lies_on_white() -> None:
    colours = np.zeros((2, 2, 4), dtype=np.uint8)
    colours[..., 0] = 200
    colours[0, 0, 3], colours[0, 1, 3], colours[1, 0, 3] = 255, 128, 0
    for format in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        pixels = shown(encoded(Image.fromarray(colours), format, **options))
        assert pixels[0, 0].tolist() == [200, 0, 0]
        assert np.abs(pixels[0, 1].astype(int) - [227, 127, 127]).max() <= 1
        assert pixels[1, 0].tolist() == [255, 255, 255]
    grey = Image.fromarray(colours[..., [0, 3]])
    assert grey.mode == "LA"
    assert shown(encoded(grey, "PNG"))[1, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("transparency", [0, b"\x00\x80\xff"])
def test_transparent_palette_colours_lie_on_white(transparency: int | bytes) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    pixels = shown(encoded(image, "PNG", transparency=transparency))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 2].tolist() == [70, 80, 90]
    assert (pixels[0, 1].tolist() == [40, 50, 60]) == isinstance(transparency, int)


def test_transparent_colour_key_lies_on_white() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    assert shown(encoded(image, "PNG", transparency=(1, 2, 3)))[0].tolist() == [[255] * 3, [9] * 3]


def test_cmyk_keeps_its_colours() -> None:
    for colour in ((220, 30, 30), (30, 200, 40), (250, 250, 250), (10, 10, 10)):
        for format in ("JPEG", "TIFF"):
            pixels = shown(encoded(Image.new("RGB", (16, 16), colour).convert("CMYK"), format))
            assert np.abs(pixels.astype(int) - colour).max() <= 6


def test_a_useless_cmyk_profile_does_not_cost_the_picture() -> None:
    image = Image.new("RGB", (16, 16), (220, 30, 30)).convert("CMYK")
    for profile in (b"no profile", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        pixels = shown(encoded(image, "JPEG", icc_profile=profile))
        assert np.abs(pixels.astype(int) - [220, 30, 30]).max() <= 6


def test_lab_is_converted() -> None:
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (8, 8), (200, 60, 20)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert lab is not None
    assert np.abs(shown(encoded(lab, "TIFF")).astype(int) - [200, 60, 20]).max() <= 4


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (12, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=40, **options)
    assert np.abs(shown(data).astype(int) - [250, 0, 0]).max() <= 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_by_exif(paint: Any, format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(paint(3), format, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(shown(data), np.asarray(expected))


def test_damaged_metadata_does_not_cost_the_picture(paint: Any) -> None:
    plain = encoded(paint(), "JPEG")
    for junk in (
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\x00\x30" + b"\xfe" * 60,
    ):
        segment = b"\xff\xe1" + struct.pack(">H", len(junk) + 2) + junk
        assert np.array_equal(shown(plain[:2] + segment + plain[2:]), shown(plain))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(paint: Any, format: str, keep: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    data = encoded(noise, format)
    with pytest.raises(UnreadableImage):
        decode(data[: int(len(data) * keep)])


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg/>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableImage):
        decode(data)


def test_postscript_is_not_even_tried() -> None:
    with pytest.raises(UnreadableImage, match="known format"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


def test_heic_says_what_to_do() -> None:
    assert ".heic" in EXTENSIONS
    with pytest.raises(UnreadableImage, match="convert"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="does not exist"):
        decode(tmp_path / "none.png")
    with pytest.raises(UnreadableImage):
        decode(tmp_path)


def test_a_decompression_bomb_is_refused_unopened() -> None:
    side = 30_000  # 900 megapixels of zeros in about 2 kB
    data = _png(side, side, 8, 2, bytes(1000))
    with pytest.raises(UnreadableImage, match="megapixels"):
        decode(data)


def test_large_pictures_are_reduced_to_the_short_side(paint: Any) -> None:
    image = paint(5, 1600, 900)
    for format, tolerance in (("JPEG", 6), ("PNG", 3)):
        pixels = shown(encoded(image, format), short_side=90)
        assert pixels.shape == (90, 160, 3)
        expected = np.asarray(image.resize((160, 90), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(pixels - expected).mean() < tolerance
    assert shown(encoded(image, "JPEG"), short_side=900).shape == (900, 1600, 3)
    strip = Image.new("RGB", (3000, 2), (5, 6, 7))
    assert shown(encoded(strip, "PNG"), short_side=1).shape == (1, 1500, 3)


@settings(deadline=None, max_examples=150)
@given(
    format=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]),
    places=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12
    ),
    cut=st.floats(0.05, 1.0),
)
def test_damaged_files_are_decoded_or_refused_never_worse(
    format: str, places: list[tuple[float, int]], cut: float
) -> None:
    ramp = np.add.outer(np.arange(20), np.arange(30) * 3).astype(np.uint8)
    data = bytearray(encoded(Image.fromarray(np.stack([ramp, ramp + 9, ramp + 90], 2)), format))
    for where, value in places:
        data[int(where * len(data))] = value
    try:
        pixels = decode(bytes(data[: int(cut * len(data))]), 16)
    except UnreadableImage as error:
        reason = str(error)
    else:
        reason = "" if pixels.shape[0] == 3 else "wrong shape"
    assert len(reason) <= 200
    assert reason != "wrong shape"


def _png(width: int, height: int, bits: int, colour: int, raw: bytes) -> bytes:
    """A PNG file written by hand: what Pillow would not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_few_bytes_are_no_image(size: int) -> None:
    with pytest.raises(UnreadableImage, match="not an image in a known format"):
        decode(b"\x00\x01\x02\x03\x04"[:size])


def test_12_bits_are_white_at_their_own_largest() -> None:
    """Pillow gives them as they are, in 16: nearly black, where 65535 is white."""
    packed = bytes.fromhex("000800fff0" + "fffffffff0")  # 0, 2048, 4095; three of 4095: rows of whole bytes
    tags = [(256, 4, 3), (257, 4, 2), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 2),
            (279, 4, len(packed))]  # fmt: skip
    content = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags))
    content += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags) + bytes(4)
    assert shown(content)[..., 0].tolist() == [[0, 128, 255], [255] * 3]


def test_a_transparent_colour_of_16_bits_is_laid_on_white_too(tmp_path: Path) -> None:
    values = np.array([[1000, 40000]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=1000)
    assert decode(tmp_path / "a.png")[0].tolist() == [[255, 156]]
