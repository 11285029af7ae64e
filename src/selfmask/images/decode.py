"""From the bytes of an image file to the RGB picture that a person would see.

What is done to what, before anything else sees the pixels:

- animations: the first frame; alpha and transparent colours: laid on white; EXIF orientation: applied;
- 16-bit and float greyscale: scaled to 8 bits, not clipped; CMYK: through its embedded profile if it has one;
- pictures whose short side exceeds `short_side`: reduced to it with an antialiasing filter (large JPEGs are
  decoded at a fraction of their size, so a 100-megapixel photograph costs little);
- truncated, damaged, unknown or absurdly large files: refused with `UnreadableImage`, never half-decoded.

Only the formats of `FORMATS` are tried: Pillow knows others that run external programs. `torchvision.io.decode_image`
would be less code: it reads neither TIFF nor BMP, knows no alpha, leaves 16 bits as they are, and decodes a large JPEG
in full.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, ImageFile, JpegImagePlugin
from torch import Tensor

from selfmask.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")
EXTENSIONS = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "avif", "jp2", "heic", "heif"),
    )
)
"""File name endings (lower case) that count as images. HEIC needs a plug-in, so such files are counted as
unreadable with that reason rather than overlooked."""

MAX_PIXELS = 2**26
"""Largest picture that is decoded whole, in pixels (67 megapixels, 268 MB at four bytes)."""
MAX_JPEG_PIXELS = 2**28
"""Largest JPEG, in stored pixels: it is decoded at a fraction of its size, but a progressive one is held in
memory as coefficients."""
_LARGE = 2**24
_one_large_at_a_time = threading.Lock()

# The transpositions that undo each EXIF orientation (EXIF 2.32, tag 0x0112); 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(DataError):
    """One image file cannot be decoded; the message is the reason without the file's name."""


def decode(image: bytes | Path, short_side: int | None = None) -> Tensor:
    """Decode one image to uint8 (3, H, W), RGB, upright, stored channels-last (fast to crop and resize).

    `short_side`: pictures whose shorter side is longer than this many pixels are reduced to it.
    Raises `UnreadableImage` with a short reason for whatever cannot be decoded.
    """
    with (
        _one_kind_of_error(),
        io.BytesIO(image) if isinstance(image, bytes) else image.open("rb") as stream,
    ):
        return _decode(stream, short_side)


def pixels_of(image: bytes) -> int:
    """How many pixels an image file says it has; nothing is decoded. Raises `UnreadableImage` as `decode` does."""
    with _one_kind_of_error():
        _silence_metadata_warnings()
        picture = _open(io.BytesIO(image))
        return picture.width * picture.height


@contextmanager
def _one_kind_of_error() -> Iterator[None]:
    """A damaged file can make a decoder raise anything: each is a reason to skip it."""
    try:
        yield
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage("the file does not exist (any more)") from None
    except Exception as error:
        raise UnreadableImage(_reason(error)) from error


def _decode(stream: io.BufferedIOBase | io.BytesIO, short_side: int | None) -> Tensor:
    _silence_metadata_warnings()
    picture = _open(stream)
    wanted, large = _wanted(picture, short_side), _is_large(picture)
    if wanted and picture.format == "JPEG":
        _check_size(picture, MAX_JPEG_PIXELS)
        picture.draft(None, wanted)  # None: whatever colour mode it has
    return _pixels(picture, wanted, large)


def decode_picture(picture: Image.Image, short_side: int | None = None) -> Tensor:
    """The same of an image that Pillow has opened."""
    with _one_kind_of_error():
        return _pixels(picture, _wanted(picture, short_side), _is_large(picture))


def _wanted(picture: Image.Image, short_side: int | None) -> tuple[int, int] | None:
    """The (width, height) to reduce it to; None: as it is."""
    if short_side is None or min(picture.size) <= short_side:
        return None
    return reduced_size(*picture.size, short_side)


def _is_large(picture: Image.Image) -> bool:
    return picture.width * picture.height > _LARGE


def _pixels(picture: Image.Image, wanted: tuple[int, int] | None, large: bool) -> Tensor:
    """RGB, upright, of the `wanted` (width, height) before it is turned."""
    _check_size(picture, MAX_PIXELS)
    with _one_large_at_a_time if large else nullcontext():
        picture.load()
        rgb = _to_rgb(picture)
        if wanted:
            rgb = Image.fromarray(shrink(_tensor(rgb), *wanted).permute(1, 2, 0).numpy())
        # Asked for only now: a TIFF is turned by Pillow on loading, a PNG may say it after its pixels.
        orientation = _orientation(picture)
        return _tensor(rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb)


def reduced_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) of the same shape with this shorter side."""
    ratio = short_side / min(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def shrink(image: Tensor, width: int, height: int) -> Tensor:
    """Resize a uint8 (3, H, W) image, antialiased."""
    return F.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _open(stream: io.BufferedIOBase | io.BytesIO) -> ImageFile.ImageFile:
    """Find the format by the first bytes.

    As `PIL.Image.open` does, but for the formats of `FORMATS` alone, without its process-wide size limit (it
    warns and depends on the user's warning filters; `_check_size` is ours) and without following the further
    pictures of a multi-picture JPEG.
    """
    Image.init()
    prefix = stream.read(16)
    if not prefix:
        raise UnreadableImage("the file is empty")
    if prefix[4:8] == b"ftyp" and prefix[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        raise UnreadableImage("HEIC is not supported: convert it to JPEG or PNG")
    for name in FORMATS:
        if name not in Image.OPEN:  # this Pillow was built without it
            continue
        factory, accept = Image.OPEN[name]
        if name == "JPEG":
            factory = JpegImagePlugin.JpegImageFile
        try:
            if accept is not None and accept(prefix) is not True:
                continue
            stream.seek(0)
            return factory(stream, "")  # type: ignore[arg-type,return-value]
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    raise UnreadableImage("not an image in a known format")


def _check_size(picture: Image.Image, limit: int) -> None:
    if picture.width * picture.height > limit:
        raise UnreadableImage(
            f"{picture.width} x {picture.height} pixels are over the limit of {limit / 1e6:.0f} megapixels"
        )


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(0x0112, 1))
    except Exception:  # damaged metadata must not cost the picture
        return 1


_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _WITHOUT_SIGN = 258, 262, 339, 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    mode = picture.mode
    if mode.startswith(("I", "F")):
        tags = getattr(picture, "tag_v2", {})
        raw = _raw(picture)
        values = _to_8_bits(raw, mode, tags.get(_BITS, (16,))[0])
        # Pillow turns around what is stored with white as 0 where it has 8 bits, but not where it has 16.
        white_is_0 = mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0
        values = 255 - values if white_is_0 else values
        if isinstance(clear := picture.info.get("transparency"), int):
            values = np.where(raw == clear, np.uint8(255), values)
        return Image.fromarray(values).convert("RGB")
    if mode == "CMYK":
        return _from_profile(picture) or picture.convert("RGB")
    if mode == "LAB":
        converted = ImageCms.profileToProfile(
            picture, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert converted is not None
        return converted
    if "transparency" in picture.info or mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        if mode == "La":
            picture = picture.convert("LA")
        coloured = picture.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    return picture.convert("RGB")


def _raw(picture: Image.Image) -> np.ndarray:
    """Greyscale with more than 8 bits, as it was stored: Pillow has 16 bits, and 32 without a sign, as signed ones."""
    values = np.asarray(picture)
    if picture.mode == "I" and picture.format == "PPM":  # brought to 16 bits by Pillow
        return values.astype(np.uint16)
    if picture.mode == "I" and getattr(picture, "tag_v2", {}).get(_SAMPLE_FORMAT) == (_WITHOUT_SIGN,):
        return values.view(np.uint32)
    return values


def _to_8_bits(values: np.ndarray, mode: str, bits: int) -> np.ndarray:
    """Greyscale with more than 8 bits to uint8. `bits`: that a TIFF says of a value; 12, say, lie in 16 as they are.

    16 bits: 65535 becomes 255, of 9 to 15 their own largest. 32-bit integers: by the smallest usual range (8, 16 or 32
    bits) that holds them. Floats: [0, 1] if they lie in it, else [0, 255] if they lie in that, else from minimum to
    maximum.
    """
    if values.dtype.itemsize == 2:
        if not 8 < bits < 16:
            return _OF_16_BITS[values]
        top = 2**bits - 1
        return _scaled(np.minimum(values, top), top)
    if mode == "I":
        top = int(values.max(initial=0))
        most = np.iinfo(values.dtype).max
        return _scaled(np.maximum(values, 0), next(m for m in (255, 65535, most) if top <= m))
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    if low >= 0 and high <= 1:
        return _scaled(values, 1.0)
    if low >= 0 and high <= 255:
        return _scaled(values, 255.0)
    return _scaled(values - low, high - low or 1.0)


def _scaled(values: np.ndarray, top: float) -> np.ndarray:
    return np.rint(values.astype(np.float64) * (255.0 / top)).astype(np.uint8)


_OF_16_BITS = _scaled(np.arange(2**16), 65535)


def _from_profile(picture: Image.Image) -> Image.Image | None:
    """CMYK to sRGB by the embedded colour profile; None where there is none or it is unusable."""
    profile = picture.info.get("icc_profile")
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _silence_metadata_warnings() -> None:
    """Keep Pillow's remarks on damaged metadata (not pixels) off the user's screen.

    `warnings.catch_warnings` is not safe in threads, and images are decoded in several: so one filter, for
    Pillow's modules and their plain `UserWarning`s only, which stays, and is put back where it was removed.
    """
    if not any(getattr(module, "pattern", None) == _PIL for _, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", category=UserWarning, module=_PIL)


_PIL = r"PIL\.(TiffImagePlugin|PngImagePlugin|Image)\Z"
