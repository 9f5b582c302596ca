"""A camera that speaks RTSP, for tests: H.264 over TCP, one picture after the other, the level counted up."""

from __future__ import annotations

import contextlib
import socketserver
import struct
import threading
import time
from typing import Any

import av
import numpy as np

KIND = 96
"""RTP's number for the stream, as SDP says."""
SDP = "\r\n".join(
    (
        "v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=camera", "c=IN IP4 0.0.0.0", "t=0 0", f"m=video 0 RTP/AVP {KIND}",
        f"a=rtpmap:{KIND} H264/90000", f"a=fmtp:{KIND} packetization-mode=1", "a=control:track", "",
    )
)  # fmt: skip
TRANSPORT = "RTP/AVP/TCP;unicast;interleaved=0-1"


class _Packets:
    """What FFmpeg's RTP muxer writes, packet by packet."""

    def __init__(self) -> None:
        self.ready: list[bytes] = []

    def write(self, data: bytes) -> int:
        if data[1] & 0x7F == KIND:  # the others are reports of the sender
            self.ready.append(bytes(data))
        return len(data)


class _Handler(socketserver.StreamRequestHandler):
    server: RtspCamera

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while words := self._request():
                method, number = words
                answers = {
                    "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN", ""),
                    "DESCRIBE": (f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}", SDP),
                    "SETUP": (f"Transport: {TRANSPORT}\r\nSession: 1", ""),
                }
                head, body = answers.get(method, ("Session: 1", ""))
                self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{head}\r\n\r\n{body}".encode())
                if method == "PLAY":
                    self._play()

    def _request(self) -> tuple[str, str] | None:
        """Method and number of the next request; None at the end."""
        lines = []
        while line := self.rfile.readline().decode().strip():
            lines.append(line)
        numbers = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("cseq:")]
        return (lines[0].split()[0], numbers[0]) if lines and numbers else None

    def _play(self) -> None:
        packets = _Packets()
        muxer: Any = av.open(packets, "w", format="rtp", options={"payload_type": str(KIND)}, buffer_size=1472)
        options = {"tune": "zerolatency", "x264-params": "repeat-headers=1:keyint=5"}
        stream = muxer.add_stream("libx264", rate=20, options=options)
        stream.width, stream.height, stream.pix_fmt = self.server.width, self.server.height, "yuv420p"
        level = 0
        while not self.server.ending.is_set():
            level = (level + 20) % 240
            frame = np.full((stream.height, stream.width, 3), (level, level // 4, 0), np.uint8)
            for coded in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                muxer.mux(coded)
            for packet in packets.ready:
                self.wfile.write(b"$\x00" + struct.pack(">H", len(packet)) + packet)
            packets.ready.clear()
            time.sleep(0.05)


class RtspCamera(socketserver.ThreadingTCPServer):
    """rtsp://127.0.0.1:PORT/, from its construction to `end`."""

    allow_reuse_address, daemon_threads = True, True

    def __init__(self, width: int, height: int, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.width, self.height = width, height
        self.ending = threading.Event()
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def end(self) -> None:
        self.ending.set()
        self.shutdown()
        self.server_close()
