"""What a file or an answer from elsewhere really is, told from how it begins, so that the cause of a failure is named.

A clone without Git LFS, a login page saved under a weights file's name, a download that was cut: each fails in whatever
reads it, with words about something else.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

from gymnast_core.plain_json import parse_json
from gymnast_core.redaction import redact

HEAD = 1 << 16
"""Bytes that are looked at."""
WIDTH = 200
# How content begins, and what it then is.
SIGNS = (
    (b"version https://git-lfs.github.com/", "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"),
    (b"version https://hawser.github.com/", "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"),
    (b"# xet version", "a pointer of Git Xet, not the file itself; fetch it with `git lfs pull` and git-xet"),
    (b"/annex/objects/", "a pointer of git-annex, not the file itself; fetch it with `git annex get`"),
    (b"../.git/annex/", "a pointer of git-annex, not the file itself; fetch it with `git annex get`"),
    (b"GGUF", "a GGUF file (weights for llama.cpp)"),
    (b"PK\x03\x04", "a zip archive, as torch.save and NumPy write them"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"\xfd7zXZ", "xz data"),
    (b"BZh", "bzip2 data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
)
# A file that only one kind of folder holds, and what the folder then is.
FOLDERS = (
    ("judge.json", "the folder of a learned judge"),
    ("episode.json", "an episode"),
    ("meta/info.json", "a LeRobot data set"),
    ("model_index.json", "a diffusers pipeline"),
    ("result.json", "a run folder"),
    ("metrics.jsonl", "a run folder"),
)


def one_line(text: str, width: int = WIDTH) -> str:
    """Foreign words on one line: secrets hidden, blanks merged, what does not print left out, cut to `width`
    characters."""
    plain = "".join(c if c.isprintable() else " " for c in redact(text[: 20 * width]))
    plain = " ".join(plain.split())
    return plain if len(plain) <= width else f"{plain[: width - 4]} ..."


def name_content(head: bytes) -> str:
    """What begins with `head`, in words: "an HTML page ('Sign in')"; "" where it is not known."""
    for sign, words in SIGNS:
        if head.startswith(sign):
            return words
    if not head:
        return "empty"
    if not head.strip(b"\0"):
        return "nothing but zero bytes, as a download leaves that was cut"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, which is not read: it may run code"
    if head[257:262] == b"ustar":
        return "a tar archive"
    return _name_text(head)


def _name_text(head: bytes) -> str:
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if re.match(r"(<!--.*?-->\s*)*<(!doctype html|html|head|body|title)\b", text, re.IGNORECASE | re.DOTALL):
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        words = one_line(title.group(1) if title else re.sub(r"<[^>]*>", " ", text))
        return f"an HTML page ({words!r})" if words else "an HTML page"
    if text.startswith("<?xml"):
        words = one_line(re.sub(r"<[^>]*>", " ", text))
        return f"an XML document ({words!r})" if words else "an XML document"
    shown = one_line(text)
    printable = sum(c.isprintable() or c.isspace() for c in text[:WIDTH])
    if shown and "\ufffd" not in text[:WIDTH] and printable == len(text[:WIDTH]):
        return f"text ({shown!r})"
    return ""


def name_file(path: str | os.PathLike[str]) -> str:
    """What a file is, as `name_content`; "" where it is not known or the file cannot be read. Behind a link may lie any
    text of this machine, which is not shown."""
    name = name_content(read_head(path))
    return "a link to a text file" if name.startswith("text (") and os.path.islink(path) else name


def found_instead(path: str | os.PathLike[str], own: str) -> str:
    """What a file is that does not begin as its `own` kind does ("picture", "NumPy"): "found a pointer of Git LFS ...";
    "" where it does, or where that is not known."""
    name = name_file(path) if os.path.isfile(path) else ""
    if name == "empty":
        return "the file is empty"
    return f"found {name}" if name and own not in name else ""


def read_head(path: str | os.PathLike[str]) -> bytes:
    """The first bytes of an ordinary file; none where that cannot be read."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
            return stream.read(HEAD) if stat.S_ISREG(os.fstat(stream.fileno()).st_mode) else b""
    except (OSError, ValueError):
        return b""


def unreadable(path: str | os.PathLike[str], error: object, kind: str = "JSON", head: bytes | None = None) -> str:
    """Why a file that should hold JSON does not: "found a pointer of Git LFS ...", or the parser's own words.

    head: the file's first bytes where they are at hand. kind: what should be in it.
    """
    if os.path.islink(path) and not os.path.exists(path):
        return "a link to nothing; download it again"
    head = read_head(path) if head is None else head[:HEAD]
    told = "" if head.lstrip()[:1] in (b"{", b"[") else name_content(head)
    if told.startswith("text (") and os.path.islink(path):
        told = "a link to a text file"
    return f"found {told}, needed {kind}" if told else f"not readable {kind} ({one_line(str(error))})"


def name_folder(folder: str | os.PathLike[str]) -> str:
    """What a folder is that is not what was looked for, in words: "an adapter alone"; "" where it is not known."""
    folder = Path(folder)
    if folder.is_file():
        name = name_file(folder) or "a file"
        return "a text file" if name.startswith("text (") else name  # whoever names a folder need not see what is in it
    config = _small_json(folder / "config.json")
    kinds = {"world_model": "a world-model folder", "small_autoencoder": "an autoencoder's folder"}
    if isinstance(kind := config.get("kind"), str) and kind in kinds:
        return kinds[kind]
    if isinstance(kind := config.get("model_type"), str):
        return f"a checkpoint of model_type {one_line(kind, 40)!r}"
    if isinstance(kind := config.get("type"), str):
        return f"a LeRobot policy of type {one_line(kind, 40)!r}"
    if isinstance(kind := config.get("_class_name"), str):
        return f"a diffusers model of class {one_line(kind, 40)!r}"
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        return "a LoRA adapter alone, without the weights of its base; merge it into its base first"
    for name, words in FOLDERS:
        if (folder / name).exists():
            return words
    for found in sorted(folder.glob("snapshots/*/config.json")):
        return f"a download cache; name the folder {found.parent}"
    for pattern, words in (("*.gguf", "GGUF weights"), ("*.bin", "pickled weights"), ("*.pt", "pickled weights")):
        if file := next(iter(sorted(folder.glob(pattern))), None):
            return f"a folder of {words} ({file.name})"
    for found in sorted(folder.glob("*/config.json")):
        return f"a folder around '{found.parent.name}', which holds a config.json"
    return ""


def other_folder(folder: str | os.PathLike[str], needed: str) -> str:
    """The line for a folder that is not what it should be: "runs/x: found a run folder, needed a policy checkpoint"."""
    folder = Path(folder)
    nothing = "nothing of that name" if not os.path.lexists(folder) else "a folder without config.json"
    return f"{folder}: found {name_folder(folder) or nothing}, needed {needed}"


def _small_json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes()) if path.is_file() and path.stat().st_size < 1 << 22 else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
