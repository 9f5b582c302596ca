"""An image file as a viewer shows it: upright, in sRGB, 8 bits a channel. What cannot be shown exactly is refused.

The header is read first: nothing is decoded before its sides, its channels and its depth are known to be allowed.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from gymnast_core.contents import found_instead
from gymnast_core.errors import DataError

MIN_SIDE = 16
MAX_SIDE = 8192
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", bytes.fromhex("0000000049454e44ae426082")
SCREEN_GAMMA = 0.45455
"""The gamma that PNG files declare for pictures meant for a screen, as sRGB is."""
MOST_GREY = 0.1
"""Share of a mask that may be neither black nor white, as soft edges are."""
SAME_COLOUR = 2
"""A colour profile that moves no colour by more than this, of 255, is sRGB."""
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, MemoryError, OverflowError, KeyError, IndexError, TypeError)
"""What Pillow raises for broken files, besides `struct.error`."""
CheckKind = Callable[[Image.Image, Path | io.BytesIO, str], None]
"""Refuses, by its header, an image that is not of the kind that is needed; called with its file and name."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `check_sides` refuses more strictly


def check_sides(width: int, height: int, name: str) -> None:
    """Raises: DataError where a side lies outside 16 to 8192 pixels."""
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise DataError(f"{name}: found {width}x{height} pixels, allowed are sides of {MIN_SIDE} to {MAX_SIDE} pixels")


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file (PNG, JPEG, WebP, BMP or TIFF) as uint8 RGB (H, W, 3), upright and in sRGB.

    The orientation in its EXIF data is applied; so is a colour profile that is not sRGB. Transparency that hides
    nothing is dropped.

    Raises: DataError when the file is missing, not a whole image, of a side outside 16 to 8192 pixels, grey, CMYK,
        transparent, animated, of more than 8 bits a channel, or in colours that nothing in the file explains: silently
        dropping or inventing a channel would change what the policy sees.
    """
    path = Path(path)
    with _opened(path) as image:
        return _pixels(image, str(path))


def decode_image(content: bytes, name: str, grey: bool = False) -> np.ndarray:
    """The same from the content of an image file, as tables keep it. name: of the picture, for errors. grey: a grey
    picture is allowed, and has equal red, green and blue."""
    with _readable(io.BytesIO(content), name, _check_kind_or_grey if grey else None) as image:
        return _pixels(image, name)


def picture_size(content: bytes, name: str) -> tuple[int, int]:
    """(width, height) in pixels, by the header of an image file's content. Raises: DataError, as `decode_image` does
    for grey pictures and for those in colour."""
    with _readable(io.BytesIO(content), name, _check_kind_or_grey) as image:
        return image.size


def _pixels(image: Image.Image, name: str) -> np.ndarray:
    """(H, W, 3) uint8. Raises: DataError."""
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        plain = _opaque(upright, name)
        profile = image.info.get("icc_profile")
        if profile:
            plain = _in_srgb(plain, profile, name)
        return np.array(plain, dtype=np.uint8)
    except (*UNREADABLE, struct.error) as error:
        raise DataError(f"{name}: not a whole image ({_one_line(error)})") from error


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as a mask (H, W) bool: true where it is brighter than half. Grey and colour will do.

    Raises: DataError when the file is missing, not a whole image, of a side outside 16 to 8192 pixels, animated,
        transparent in places (what is hidden there is no mask), or neither black nor white in many: a photograph.
    """
    path = Path(path)
    with _opened(path, _check_mask) as image:
        try:
            image.load()
            plain = ImageOps.exif_transpose(image)
            if image.mode not in ("1", "L"):
                plain = _opaque(plain, str(path))
            shades = np.array(plain.convert("L"), dtype=np.uint8)
        except (*UNREADABLE, struct.error) as error:
            raise DataError(f"{path}: not a whole image ({_one_line(error)})") from error
    between = float(((shades > 48) & (shades < 208)).mean())
    if between > MOST_GREY:
        raise DataError(f"{path}: {between:.0%} of it is neither black nor white; needed a mask, white where it holds")
    return shades > 127


def read_cutout(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an object that was cut out: an image with transparency as uint8 RGBA (H, W, 4), in sRGB.

    Raises: DataError when the file is missing, not a whole image, of a side outside 16 to 8192 pixels, animated, of
        more than 8 bits a channel, or transparent everywhere or nowhere.
    """
    path = Path(path)
    with _opened(path, _check_cutout) as image:
        try:
            image.load()
            pixels = np.array(image.convert("RGBA"), dtype=np.uint8)
        except (*UNREADABLE, struct.error) as error:
            raise DataError(f"{path}: not a whole image ({_one_line(error)})") from error
    alpha = pixels[..., 3]
    if alpha.max() < 128 or alpha.min() == 255:
        found = "transparent everywhere" if alpha.max() < 128 else "transparent nowhere"
        raise DataError(f"{path}: found an object {found}; needed one that was cut out of its background")
    return pixels


def check_image(path: str | os.PathLike[str]) -> None:
    """Check that an image file is there and of an allowed kind, by its header alone, and that a PNG has its end.

    Raises: DataError, as `read_image` does.
    """
    path = Path(path)
    with _opened(path) as image:
        whole = image.format != "PNG" or _tail(path, len(PNG_END)) == PNG_END
    if not whole:
        raise DataError(f"{path}: not a whole PNG image; remove the episode or record it again")


def _opened(path: Path, check_kind: CheckKind | None = None) -> Image.Image:
    """The image with its header read and checked, its pixels not decoded yet. check_kind: None wants 8-bit RGB."""
    if not path.is_file():
        raise DataError(f"{path}: no such image file")
    return _readable(path, str(path), check_kind)


def _readable(source: Path | io.BytesIO, name: str, check_kind: CheckKind | None = None) -> Image.Image:
    """A file, or its content, as an image whose header was checked. Raises: DataError."""
    try:
        image = Image.open(source, formats=FORMATS)
    except Image.DecompressionBombError as error:
        sides = f"allowed are sides of {MIN_SIDE} to {MAX_SIDE} pixels"
        raise DataError(f"{name}: its header declares too many pixels ({_one_line(error)}); {sides}") from error
    except PermissionError as error:
        raise DataError(f"{name}: cannot read: {error.strerror}") from error
    except (*UNREADABLE, struct.error) as error:
        found = found_instead(source, "picture") if isinstance(source, Path) else ""
        expected = f"{found}; " * bool(found) + "PNG, JPEG, WebP, BMP or TIFF expected"
        raise DataError(f"{name}: not a readable image ({expected})") from error
    try:
        check_sides(*image.size, name)
        (check_kind or _check_kind)(image, source, name)
    except (*UNREADABLE, struct.error) as error:
        image.close()
        raise DataError(f"{name}: not a whole image ({_one_line(error)})") from error
    except DataError:
        image.close()
        raise
    return image


def _check_mask(image: Image.Image, source: Path | io.BytesIO, name: str) -> None:
    """Refuse, by the header, what is no 8-bit mask."""
    if getattr(image, "n_frames", 1) > 1:
        raise DataError(f"{name}: found {getattr(image, 'n_frames', 1)} pictures in it, needed one")
    if image.mode not in ("1", "L", "RGB", "RGBA", "P", "PA") or _bits(image) > 8:
        raise DataError(
            f"{name}: found {image.mode} pixels, needed a grey or RGB picture of 8 bits, white where it holds"
        )


def _check_cutout(image: Image.Image, source: Path | io.BytesIO, name: str) -> None:
    """Refuse, by the header, what has no transparency."""
    _check_mask(image, source, name)
    if image.mode not in ("RGBA", "PA") and "transparency" not in image.info:
        raise DataError(f"{name}: found {image.mode} pixels without transparency, needed an object cut out (RGBA)")


def _check_kind(image: Image.Image, source: Path | io.BytesIO, name: str) -> None:
    """Refuse, by the header, what is no 8-bit RGB picture."""
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # an MPO holds a photograph and its previews
        raise DataError(f"{name}: found {getattr(image, 'n_frames', 1)} pictures in it, needed one")
    if _bits(image) > 8:
        raise DataError(f"{name}: found uint16 pixels or deeper, needed 8 bits a channel; convert the image first")
    if image.mode not in ("RGB", "RGBA", "P", "PA"):
        channels = len(image.getbands())
        raise DataError(f"{name}: found {channels} channel(s), {image.mode}, needed 3 (RGB); convert the image first")
    if image.info.get("icc_profile"):
        return
    gamma = image.info.get("gamma")
    if gamma and "srgb" not in image.info and abs(gamma - SCREEN_GAMMA) > 0.02:
        raise DataError(f"{name}: found a gamma of {gamma:.3f}, needed sRGB; convert the image first")
    points = _png_code_points(source) if image.format == "PNG" else ()
    if points not in ((), (1, 13), (2, 2)):
        raise DataError(f"{name}: found colours of code points {points}, needed sRGB; convert it first")
    if image.format != "PNG" and image.getexif().get_ifd(ExifTags.IFD.Interop).get(1) == "R03":
        raise DataError(f"{name}: found Adobe RGB colours without their profile, needed sRGB; convert the image first")


def _check_kind_or_grey(image: Image.Image, source: Path | io.BytesIO, name: str) -> None:
    """Refuse, by the header, what is no 8-bit picture in RGB or grey."""
    if image.mode != "L" or _bits(image) > 8:
        _check_kind(image, source, name)


def _bits(image: Image.Image) -> int:
    """Bits a channel, of the file: Pillow cuts some deeper ones to 8 as it reads."""
    if image.mode.startswith(("I", "F")):
        return 16
    if image.format == "TIFF":
        return max(np.atleast_1d(getattr(image, "tag_v2", {}).get(258, 8)).tolist())
    return 16 if any(";16" in str(tile.args) for tile in getattr(image, "tile", ())) else 8


def _opaque(image: Image.Image, name: str) -> Image.Image:
    """RGB. Raises: DataError where something shines through."""
    if image.mode in ("RGBA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise DataError(
                f"{name}: found 4 channel(s), transparent in places, needed 3 (RGB); convert the image first"
            )
    return image.convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes, name: str) -> Image.Image:
    """The same colours in sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        turn = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), "RGB", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC
        )
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
        turned = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), turn), dtype=np.int16)
        if np.abs(turned - cube).max() <= SAME_COLOUR:
            return image
        return ImageCms.applyTransform(image, turn) or image
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise DataError(f"{name}: its colour profile is damaged or not of RGB ({_one_line(error)})") from error


def _png_code_points(source: Path | io.BytesIO) -> tuple[int, ...]:
    """(primaries, transfer) of a PNG's cICP chunk, which stands before the pixels; () where there is none."""
    with open(source, "rb") if isinstance(source, Path) else io.BytesIO(source.getbuffer()) as stream:
        stream.seek(len(PNG_START))
        while len(head := stream.read(8)) == 8 and head[4:] != b"IDAT":
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"cICP":
                return tuple(stream.read(2))
            stream.seek(length + 4, os.SEEK_CUR)
    return ()


def _tail(path: Path, count: int) -> bytes:
    with open(path, "rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - count))
        return stream.read()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
