"""Image files are read as a viewer shows them, or refused in one line before they cost anything."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from gymnast_core.data.frames import read_image
from gymnast_core.data.pictures import check_image
from gymnast_core.errors import DataError
from gymnast_core.files import files_below
from tests.machine import HANG_S

SCENE = np.zeros((48, 64, 3), np.uint8)
SCENE[:24, :32], SCENE[:24, 32:], SCENE[24:, :32], SCENE[24:, 32:] = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (200, 200, 0),
)
# What a viewer does to the stored pixels for each orientation (EXIF 2.32, tag 0x0112), undone: what a camera stores.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_a_photograph_is_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    photo = Image.fromarray(np.ascontiguousarray(STORED[orientation](SCENE)))
    tags = photo.getexif()
    tags[0x0112] = orientation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    photo.save(tmp_path / f"photo.{suffix}", exif=tags, **options)
    found = read_image(tmp_path / f"photo.{suffix}")
    assert found.shape == SCENE.shape
    assert np.abs(found.astype(int) - SCENE).max() <= (4 if suffix == "jpg" else 0)


def test_an_orientation_that_comes_last_or_in_xmp_is_seen(tmp_path: Path) -> None:
    photo = Image.fromarray(np.ascontiguousarray(STORED[6](SCENE)))
    tags = photo.getexif()
    tags[0x0112] = 6
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    end = buffer.getvalue().rindex(b"IEND") - 4
    exif = b"eXIf" + tags.tobytes()[6:]
    chunk = struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif))
    (tmp_path / "late.png").write_bytes(buffer.getvalue()[:end] + chunk + buffer.getvalue()[end:])
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    photo.save(tmp_path / "xmp.jpg", xmp=xmp, quality=95)
    for name in ("late.png", "xmp.jpg"):
        assert read_image(tmp_path / name).shape == SCENE.shape, name


def _swapped() -> bytes:
    """A colour profile that sRGB must not be taken for: its own with red and green swapped."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def test_a_colour_profile_is_obeyed(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for suffix in ("png", "jpg", "webp", "tiff"):
        options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(SCENE).save(path, icc_profile=srgb, **options)
        assert np.abs(read_image(path).astype(int) - SCENE).max() <= (4 if suffix == "jpg" else 0)
        Image.fromarray(SCENE).save(path, icc_profile=_swapped(), **options)
        assert np.abs(read_image(path).astype(int) - SCENE[:, :, [1, 0, 2]]).max() <= 6, suffix
        Image.fromarray(SCENE).save(path, icc_profile=b"no profile at all" * 20, **options)
        with pytest.raises(DataError, match="colour profile is damaged"):
            read_image(path)


def _with_chunk(kind: bytes, content: bytes) -> bytes:
    """SCENE as PNG with one more chunk after its header."""
    buffer = io.BytesIO()
    Image.fromarray(SCENE).save(buffer, "PNG")
    whole = buffer.getvalue()
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return whole[:33] + chunk + whole[33:]


def test_other_colours_and_channels_are_shown_exactly_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    clear, opaque = np.dstack([SCENE, np.full((48, 64), 254, np.uint8)]), np.dstack([SCENE, SCENE[..., 0] * 0 + 255])
    Image.fromarray(opaque).save(path)
    assert np.array_equal(read_image(path), SCENE), "nothing shines through"
    Image.fromarray(SCENE).quantize(4).save(path)
    assert np.array_equal(read_image(path), SCENE), "a palette"
    path.write_bytes(_with_chunk(b"gAMA", struct.pack(">I", 45455)))
    assert np.array_equal(read_image(path), SCENE)
    made = {
        "transparent": lambda: Image.fromarray(clear).save(path),
        "transparent in": lambda: Image.fromarray(SCENE).save(path, transparency=(255, 0, 0)),
        "transparent in places": lambda: Image.fromarray(SCENE).quantize(4).save(path, transparency=1),
        "1 channel": lambda: Image.fromarray(SCENE[..., 0]).save(path),
        r"1 channel\(s\), 1,": lambda: Image.fromarray(SCENE[..., 0]).convert("1").save(path),
        "2 channel": lambda: Image.fromarray(SCENE[..., 0]).convert("LA").save(path),
        "CMYK": lambda: Image.fromarray(SCENE).convert("CMYK").save(path, "JPEG"),
        "uint16 pixels or deeper": lambda: path.write_bytes(_deep()),
        "2 pictures in it": lambda: Image.fromarray(SCENE).save(
            path, save_all=True, append_images=[Image.fromarray(SCENE // 2)]
        ),
        "gamma of 1.000": lambda: path.write_bytes(_with_chunk(b"gAMA", struct.pack(">I", 100000))),
        r"code points \(9, 16\)": lambda: path.write_bytes(_with_chunk(b"cICP", bytes([9, 16, 0, 1]))),
        "not a readable image": lambda: Image.fromarray(SCENE).save(path, "GIF"),
    }
    for message, make in made.items():
        make()
        with pytest.raises(DataError, match=message) as caught:
            read_image(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def _deep() -> bytes:
    """A PNG of 16 bits a channel."""
    rows = b"".join(b"\0" + (SCENE[row].astype(">u2") * 257).tobytes() for row in range(48))
    out = b"\x89PNG\r\n\x1a\n"
    for kind, content in (
        (b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        out += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return out


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "bmp"])
def test_a_damaged_picture_is_an_error(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 300):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError, match=str(path)):
            read_image(path)
    if suffix == "png":
        path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
        with pytest.raises(DataError, match="not a whole image"):
            read_image(path)


def _bombs(folder: Path) -> list[Path]:
    """Small files that declare (and the PNG really holds) very many pixels."""
    side = 32_000
    packer = zlib.compressobj(9)
    packer.compress(bytes(8)) + packer.flush(zlib.Z_FULL_FLUSH)
    row = packer.compress(bytes(3 * side + 1)) + packer.flush(zlib.Z_FULL_FLUSH)  # stands for itself, so it repeats
    squeezed = b"\x78\xda" + row * side + b"\x03\x00" + bytes(4)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, content in (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", squeezed),
        (b"IEND", b""),
    ):
        png += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    (folder / "a.png").write_bytes(png)
    buffer = io.BytesIO()
    Image.fromarray(SCENE).save(buffer, "JPEG")
    jpeg = bytearray(buffer.getvalue())
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", side, side)
    (folder / "b.jpg").write_bytes(jpeg)
    buffer = io.BytesIO()
    Image.fromarray(SCENE).save(buffer, "WEBP", lossless=True)
    webp = bytearray(buffer.getvalue())
    at = webp.index(b"VP8L") + 9
    webp[at : at + 4] = struct.pack("<I", 16_382 | 16_382 << 14)
    (folder / "c.webp").write_bytes(webp)
    buffer = io.BytesIO()
    Image.fromarray(SCENE).save(buffer, "TIFF", compression="tiff_deflate")
    tiff = buffer.getvalue()
    for tag in (256, 257):
        at = (
            tiff.index(struct.pack("<HH", tag, 4))
            if struct.pack("<HH", tag, 4) in tiff
            else tiff.index(struct.pack("<HH", tag, 3))
        )
        tiff = tiff[: at + 2] + struct.pack("<HII", 4, 1, side) + tiff[at + 12 :]
    (folder / "d.tiff").write_bytes(tiff)
    buffer = io.BytesIO()
    Image.fromarray(SCENE).save(buffer, "BMP")
    bmp = bytearray(buffer.getvalue())
    bmp[18:26] = struct.pack("<ii", side, side)
    (folder / "e.bmp").write_bytes(bmp)
    Image.fromarray(SCENE).save(folder / "f.gif")
    return sorted(folder.glob("?.*"))


def test_a_picture_of_a_billion_pixels_costs_nothing(tmp_path: Path) -> None:
    """Every reader looks at the header first: no memory is taken, no second spent."""
    paths = _bombs(tmp_path)
    assert all(path.stat().st_size < 4_000_000 for path in paths) and len(paths) == 6
    program = """
import resource, sys, time
from gymnast_core.data.pictures import check_image, read_image
from gymnast_core.errors import DataError
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
for path in sys.argv[1:]:
    for read in (read_image, check_image):
        try:
            read(path)
        except DataError as error:
            print(error)
print("used", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - began)
"""
    found = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    *lines, used = found.stdout.splitlines()
    assert len(lines) == 2 * len(paths) and not found.stderr
    assert sum("pixels" in line for line in lines) >= 10, lines
    _, kilobytes, seconds = used.split()
    assert int(kilobytes) < 100_000 and float(seconds) < 2.0, used


def test_hidden_files_are_no_data(tmp_path: Path) -> None:
    for name in ("0.mp4", "._0.mp4", ".DS_Store", "Thumbs.db", "a/episode.json", "a/._episode.json", ".trash/1.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_below(tmp_path, ".mp4") == [tmp_path / "0.mp4"]
    assert files_below(tmp_path, "episode.json") == [tmp_path / "a/episode.json"]


def test_the_header_alone_tells_what_cannot_be_used(tmp_path: Path) -> None:
    Image.fromarray(SCENE).save(tmp_path / "a.png")
    check_image(tmp_path / "a.png")
    ImageOps.grayscale(Image.fromarray(SCENE)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="1 channel"):
        check_image(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-4])
    with pytest.raises(DataError, match="not a whole PNG"):
        check_image(tmp_path / "a.png")
