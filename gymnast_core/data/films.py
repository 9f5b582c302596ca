"""A film, frame by frame: upright, in RGB of 8 bits, squashed as it comes: no more than one frame is held whole.

Reading stops within a frame when the run is asked to stop. Damage that the decoder notices is an error, never a
patched-up frame; films carry no checksums, so some changed bytes within one frame go unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gymnast_core.contents import found_instead
from gymnast_core.data.frames import MAX_SIDE, check_sides, resize_frame
from gymnast_core.errors import DataError
from gymnast_core.progress import check_stop

if TYPE_CHECKING:
    import av

OPTIONS = {"err_detect": "crccheck+bitstream+buffer+explode", "max_pixels": str(MAX_SIDE**2)}
"""Of ffmpeg's decoders: damage is an error, and so is a picture larger than allowed, before memory is taken for it."""
WIDE_COLOURS = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
HIGH_RANGE = {16: "PQ", 18: "HLG"}
"""Primaries and transfer functions (ITU-T H.273) that 8-bit RGB does not show without a decision on how."""
BT601, MATRICES = 5, (1, 4, 5, 6, 7, 9)
LIMITED_RANGE, FULL_RANGE = 1, 2
"""As H.273 and ffmpeg number them."""
LATE_S = 0.5
"""A film whose last frame ends this much earlier than its header says was cut off."""


@dataclass(frozen=True)
class FilmIndex:
    """Which frames a film has, from its packets, undecoded. times: (T,) int64 display times in ticks, sorted, or None
    where the file gives none.
    """

    count: int
    times: np.ndarray | None


def film_frames(path: str | os.PathLike[str], size: int | None = None) -> Iterator[np.ndarray]:
    """Every frame (H, W, 3) uint8 RGB in order of display, squashed to (size, size) where given; decoded once.

    The rotation or mirroring that the file asks for is applied. Colours are converted by the matrix and range that the
    film names; where it names none, by BT.601 and the limited range, as ffmpeg writes.

    Raises: DataError when the file is missing, damaged, cut off, empty, of a side outside 16 to 8192 pixels, grey,
        transparent, of high dynamic range, or rotated by other than quarter turns; Stopped when the run was asked to.
    """
    path = Path(path)
    seen, shown = 0, []
    viewer = _Viewer(path, size)
    with _opened(path) as (container, stream):
        for packet in container.demux(stream):
            check_stop()
            if packet.is_corrupt:
                raise DataError(f"{path}: damaged: frame {seen} or one soon after it is not whole")
            if packet.size and not packet.is_discard:
                shown.append((packet.pts, packet.duration or 0))
            for frame in _decoded(packet, path, seen):
                check_stop()
                yield viewer.pixels(frame, seen)
                seen += 1
        if not seen:
            raise DataError(f"{path}: the video has no frames")
        if seen < len(shown):
            raise DataError(f"{path}: damaged: {len(shown) - seen} of its {len(shown)} frames cannot be decoded")
        if (missing := _missing(container, stream, shown)) is not None:
            raise DataError(f"{path}: {missing}")


def film_section(
    path: str | os.PathLike[str], times: Sequence[float], near: float, size: int | None = None
) -> Iterator[np.ndarray]:
    """The frames shown at these times (seconds, ascending), as `film_frames` gives them: of one episode in a film of
    many. Decoding begins at the last place before the first time from which that is possible.

    near: seconds; a frame is that of a time when it is shown within this of it.

    Raises: DataError, as `film_frames` does, and where a time has no frame.
    """
    path = Path(path)
    viewer, seen = _Viewer(path, size), 0
    with _opened(path) as (container, stream):
        container.seek(max(0, int(times[0] / stream.time_base)), stream=stream, backward=True)
        decoded = (frame for packet in container.demux(stream) for frame in _decoded(packet, path, seen))
        for frame in decoded:
            check_stop()
            if frame.pts is None:
                raise DataError(f"{path}: its frames carry no times, by which those of an episode are found")
            late = float(frame.pts * stream.time_base) - times[seen]
            if late > near:
                break
            if late >= -near:
                yield viewer.pixels(frame, seen)
                seen += 1
            if seen == len(times):
                return
    raise DataError(f"{path}: found no frame at {times[seen]:.3f} s, where frame {seen} of an episode was expected")


def _missing(container: av.container.InputContainer, stream: Any, shown: list[tuple[Any, int]]) -> str | None:
    """What a film without an index of its frames (Matroska, WebM) has lost, by the times it declares; None: nothing.

    shown: (time, duration) of each frame in ticks of the stream.
    """
    if "matroska" not in container.format.name or any(time is None for time, _ in shown):
        return None
    spans = sorted(shown)
    for (time, duration), (following, _) in pairwise(spans):
        if duration and following - time > 1.9 * duration:
            return f"damaged: frames are missing after {float(time * stream.time_base):.1f} s"
    end, declared = float(sum(spans[-1]) * stream.time_base), (container.duration or 0) / 1e6
    if len(container.streams) == 1 and declared - end > LATE_S:
        return f"cut off: it ends after {end:.1f} s of the {declared:.1f} s it declares"
    return None


def read_video(path: str | os.PathLike[str], size: int | None = None) -> np.ndarray:
    """All frames of a film at once, (T, H, W, 3) uint8; see `film_frames`. Raises: DataError where sizes differ."""
    frames: list[np.ndarray] = []
    for frame in film_frames(path, size):
        if frames and frame.shape != frames[0].shape:
            sizes = f"{frame.shape[:2]} and {frames[0].shape[:2]}"
            raise DataError(f"{path}: found frames of {sizes} (height, width), needed one size")
        frames.append(frame)
    return np.stack(frames)


def film_index(path: str | os.PathLike[str]) -> FilmIndex:
    """Count a film's frames without decoding them. Raises: DataError, Stopped."""
    path = Path(path)
    times: list[int | None] = []
    with _opened(path) as (container, stream):
        for packet in container.demux(stream):
            check_stop()
            if packet.size and not packet.is_discard:
                times.append(packet.pts)
    known = [time for time in times if time is not None]
    usable = len(known) == len(times) == len(set(known))
    return FilmIndex(len(times), np.sort(np.array(known, dtype=np.int64)) if usable else None)


def film_frame(
    path: str | os.PathLike[str], number: int, size: int | None = None, index: FilmIndex | None = None
) -> np.ndarray:
    """Frame `number` (H, W, 3) uint8 alone, from the end where it is negative: decoded from the last frame before it
    from which that is possible.

    index: of this film, where it is known already.

    Raises: DataError, as `film_frames` and when there is no such frame.
    """
    path = Path(path)
    index = index or film_index(path)
    wanted = number + index.count if number < 0 else number
    if not 0 <= wanted < index.count:
        raise DataError(
            f"{path}: found {index.count} frames, there is no index {number}; allowed are 0 to {index.count - 1}"
        )
    if index.times is not None and (sought := _sought(path, wanted, int(index.times[wanted]), size)) is not None:
        return sought
    for k, frame in enumerate(film_frames(path, size)):
        if k == wanted:
            return frame
    raise DataError(f"{path}: damaged: frame {wanted} cannot be decoded")


def _sought(path: Path, number: int, time: int, size: int | None) -> np.ndarray | None:
    """The frame shown at `time`; None where one cannot jump there, so that it is decoded from the beginning."""
    viewer = _Viewer(path, size)
    try:
        with _opened(path) as (container, stream):
            container.seek(time, stream=stream, backward=True)
            for frame in container.decode(stream):
                check_stop()
                if frame.pts is None or frame.pts > time:
                    return None
                if frame.pts == time:
                    return viewer.pixels(frame, number)
    except DataError:  # it will be told by whoever reads from the beginning, if it is there
        return None
    return None


def _decoded(packet: Any, path: Path, seen: int) -> list[Any]:
    """Frames that a packet completes."""
    import av

    try:
        return list(packet.decode())
    except av.error.FFmpegError as error:
        what = f"damaged: frame {seen} or one soon after it cannot be decoded ({error.strerror})"
        raise DataError(f"{path}: {what}") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, Any]]:
    """The container and its film, whose header was checked; what ffmpeg raises within the block becomes a DataError."""
    import av  # tens of megabytes, for videos alone

    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would be waited for
        raise DataError(f"{path}: not an ordinary file; needed a film")
    try:
        with av.open(str(path), options={"max_pixels": OPTIONS["max_pixels"]}) as container:
            if not container.streams.video:
                raise DataError(f"{path}: no film in it")
            stream = container.streams.best("video") or container.streams.video[0]
            codec = stream.codec_context
            if codec is None:
                raise DataError(f"{path}: cannot read the video (its codec is not known)")
            check_sides(codec.width, codec.height, str(path))
            codec.options = dict(OPTIONS)
            yield container, stream
    except (OSError, av.error.FFmpegError, IndexError, ValueError, MemoryError) as error:
        why = found_instead(path, "film") or " ".join(str(error).split())[:160]
        raise DataError(f"{path}: cannot read the video ({why})") from error


class _Viewer:
    """Decoded frames of one film as they are to be seen."""

    def __init__(self, path: Path, size: int | None) -> None:
        from av.video.reformatter import VideoReformatter

        self._path = path
        self._size = size
        self._converter = VideoReformatter()  # one for the film: it holds buffers of a frame's size
        self._matrix: np.ndarray | None = None
        self._rotation: int | None = None

    def pixels(self, frame: av.VideoFrame, number: int) -> np.ndarray:
        """One frame (H, W, 3) uint8, squashed where a size is given. Raises: DataError."""
        name = f"{self._path}: frame {number}"
        if frame.is_corrupt:
            raise DataError(f"{name}: damaged")
        check_sides(frame.width, frame.height, name)
        if (kind := _unshowable(frame)) is not None:
            raise DataError(f"{name}: found {kind} colours, needed those of BT.709 or BT.601; convert the film first")
        parts = frame.format.components
        if any(part.is_alpha for part in parts) or (len(parts) < 3 and not frame.format.has_palette):
            found = frame.format.name
            raise DataError(f"{name}: found {found} pixels, grey or transparent, needed colours; convert first")
        self._look_for_turn(frame, name)
        pixels = self._in_rgb(frame)
        if self._matrix is not None:
            pixels = _turned(pixels, self._matrix, name)
        return resize_frame(pixels, self._size) if self._size else np.ascontiguousarray(pixels)

    def _look_for_turn(self, frame: av.VideoFrame, name: str) -> None:
        """Take the display matrix from the first frame: a frame that was asked for it lives until the next collection
        of garbage, pixels and all.
        """
        if self._rotation is None:
            self._rotation = frame.rotation
            matrix: Any = frame.side_data.get("DISPLAYMATRIX")
            self._matrix = None if matrix is None else np.frombuffer(bytes(matrix), dtype=np.int32)
        elif frame.rotation != self._rotation:
            raise DataError(f"{name}: found a film that is turned halfway; cut it there first")

    def _in_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8 by the matrix and the range that the frame names; no default of the library is relied on."""
        if frame.format.is_rgb or frame.format.has_palette:
            return frame.to_ndarray(format="rgb24")
        matrix = int(frame.colorspace)
        matrix = matrix if matrix in MATRICES else BT601
        full = int(frame.color_range) == FULL_RANGE
        return self._converter.reformat(
            frame,
            format="rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=FULL_RANGE if full else LIMITED_RANGE,
            dst_color_range=FULL_RANGE,
        ).to_ndarray()


def _unshowable(frame: av.VideoFrame) -> str | None:
    """What its colours are called, where 8-bit RGB does not show them."""
    curve, primaries = (int(getattr(frame, name, 2)) for name in ("color_trc", "color_primaries"))  # 2: not said
    return HIGH_RANGE.get(curve) or WIDE_COLOURS.get(primaries)


def _turned(pixels: np.ndarray, matrix: np.ndarray, name: str) -> np.ndarray:
    """Apply a display matrix: right and down of the picture go to (a, b) and (c, d) of the screen."""
    a, b, c, d = (int(value) for value in matrix[[0, 1, 3, 4]])
    if b == c == 0 and a and d:
        across, down = a, d
    elif a == d == 0 and b and c:
        pixels, across, down = pixels.transpose(1, 0, 2), c, b
    else:
        turn = np.degrees(np.arctan2(b, a))
        raise DataError(f"{name}: found a rotation by {turn:.0f} degrees, needed quarter turns; convert the film first")
    return pixels[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1]
