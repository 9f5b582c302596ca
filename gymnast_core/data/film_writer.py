"""Films written frame by frame: H.264 in MP4, no more than one frame in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from gymnast_core.errors import DataError
from gymnast_core.files import remove
from gymnast_core.progress import check_stop


def write_film(
    path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: float, crf: int = 20, jump: int | None = None
) -> int:
    """Write frames (H, W, 3) uint8 of one size as a film, whole or not at all; returns their count, at least one.

    Colours have half the resolution where both sides are even, as every player can show it, and the whole otherwise.

    fps: frames per second. crf: x264's quality, 0 (only the conversion of colours loses anything) to 51. jump: decoding
    can begin at every frame whose number is a multiple of it, and no frame waits for a later one, so that films can be
    joined. None: as the encoder chooses.

    Raises: DataError when the file cannot be written, its suffix names no video format, or a frame has another size.
    """
    import av  # tens of megabytes, for videos alone

    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    count = 0
    shape: tuple[int, ...] = (0, 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(temporary), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
            joined = {} if jump is None else {"g": str(jump), "bf": "0", "threads": "1"}
            stream.options = {"crf": str(crf), "preset": "veryfast", **joined}
            for count, frame in enumerate(frames, 1):
                if count == 1:
                    shape = (stream.height, stream.width) = frame.shape[:2]
                    stream.pix_fmt = "yuv444p" if shape[0] % 2 or shape[1] % 2 else "yuv420p"
                if frame.shape[:2] != shape:
                    found = f"frame {count - 1} of {frame.shape[:2]} and others of {shape} (height, width)"
                    raise DataError(f"{path}: found {found}, needed one size")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            if not count:
                raise DataError(f"{path}: found no frame to write")
            container.mux(stream.encode())
        os.replace(temporary, path)
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise DataError(
            f"{path}: cannot write the video ({error}); is the disk full? its name must end in .mp4"
        ) from error
    finally:
        remove(temporary)
    return count


def join_films(parts: Sequence[Path], target: Path) -> None:
    """Put films one after the other without encoding them anew. They were written by `write_film` with the same
    settings and a `jump`, so that a frame's time in the whole is the count of frames before it by the rate.

    Raises: DataError when something cannot be read or written.
    """
    import av

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(target), "w") as joined:
            stream, shown = None, Fraction(0)
            for part in parts:
                check_stop()
                with av.open(str(part)) as container:
                    source = container.streams.video[0]
                    stream = stream or joined.add_stream_from_template(source)
                    begin, count = int(shown / source.time_base), 0
                    for packet in container.demux(source):
                        if packet.dts is None:  # the end
                            continue
                        packet.pts, packet.dts = packet.pts + begin, packet.dts + begin
                        packet.stream = stream
                        joined.mux(packet)
                        count += 1
                    shown += count / source.average_rate
    except (OSError, ValueError, TypeError, IndexError, av.error.FFmpegError) as error:
        raise DataError(f"{target}: cannot join films ({error}); is the disk full?") from error
