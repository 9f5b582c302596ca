"""Files of safetensors from elsewhere: opened, looked over as a whole, and, where they cannot be used, named.

What a file is decides before any single tensor does: a quantised checkpoint has other names, types and shapes than the
network, and each of these alone would be a symptom.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gymnast_core.contents import name_content, one_line, read_head
from gymnast_core.errors import CheckpointError
from gymnast_core.plain_json import parse_json

FLOATS = {"BF16", "F16", "F32", "F64", "bfloat16", "float16", "float32", "float64"}
"""Types of weights that were not quantised, in safetensors' words and torch's."""
# How names of tensors end that only a quantised layer has, and the method; the first that fits counts.
SIGNS = (
    (("quant_state.bitsandbytes__nf4",), "bitsandbytes NF4"),
    (("quant_state.bitsandbytes__fp4",), "bitsandbytes FP4"),
    ((".weight.absmax", ".weight.quant_map", ".weight.nested_absmax"), "bitsandbytes, 4 bits"),
    ((".SCB", ".weight_format"), "bitsandbytes int8"),
    ((".g_idx",), "GPTQ"),
    ((".qweight", ".qzeros"), "GPTQ or AWQ"),
    ((".codebooks",), "AQLM"),
    ((".W_q",), "HQQ"),
    ((".weight_packed",), "compressed-tensors"),
    ((".weight_scale", ".weight_scale_inv", ".input_scale", ".weight_zero_point"), "scaled integers or float8"),
    ((".weight._data", ".weight._scale"), "quanto"),
    (("_weight_qdata", "_weight_scale"), "torchao"),
    (("_blocks",), "MXFP4"),
)
# Files that a quantiser leaves beside config.json.
SIDE_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "quanto_qmap.json": "quanto",
    "hf_quant_config.json": "ModelOpt",
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as its file's header says. dtype: in safetensors' words ("BF16", "U8"). path: the file."""

    shape: tuple[int, ...]
    dtype: str
    path: Path


@contextmanager
def open_tensors(path: str | os.PathLike[str], framework: str = "pt") -> Iterator[Any]:
    """A safetensors file, opened for the block.

    Raises: CheckpointError naming the file and what it is instead, also for what safetensors raises in the block.
    """
    try:
        if not Path(path).is_file():  # opening a pipe would wait for ever
            raise FileNotFoundError(path)
        with safe_open(str(path), framework=framework, device="cpu") as archive:
            yield archive
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {unreadable_tensors(path, error)}") from error


def load_tensors(path: str | os.PathLike[str], framework: str = "pt") -> dict[str, Any]:
    """All tensors of a file by name. Raises: CheckpointError, see `open_tensors`."""
    with open_tensors(path, framework) as archive:
        return {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - no mapping


def survey(files: list[Path]) -> dict[str, TensorInfo]:
    """All tensors of some files, from their headers alone. Raises: CheckpointError, see `open_tensors`."""
    found = {}
    for path in files:
        with open_tensors(path) as archive:
            for name in archive.keys():  # noqa: SIM118 - no mapping
                part = archive.get_slice(name)
                found[name] = TensorInfo(tuple(part.get_shape()), str(part.get_dtype()), path)
    return found


def unreadable_tensors(path: str | os.PathLike[str], error: object) -> str:
    """Why a file is no safetensors file, in words: what it is instead, or how much of it is missing."""
    path = Path(path)
    if not path.exists():
        return "a link to nothing; download it again" if path.is_symlink() else "no such file"
    if not path.is_file():
        return "found a folder, needed a safetensors file" if path.is_dir() else "no ordinary file"
    if not os.access(path, os.R_OK):
        return "cannot be read (permission denied)"
    head = read_head(path)
    length = int.from_bytes(head[:8], "little")
    if told := name_content(head):
        return f"found {told}, needed a safetensors file"
    size = path.stat().st_size
    if head[8:9] == b"{":
        if size < 8 + length:
            return f"cut short within its header ({size} bytes); download it again"
        try:
            with open(path, "rb") as stream:
                header = parse_json(stream.read(8 + length)[8:])
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
            needed = 8 + length + max(ends, default=0)
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            needed = size
        if size < needed:
            return f"cut short: found {size} of {needed} bytes; download it again"
    return f"damaged weights file ({one_line(str(error))})"


def refuse_quantised(
    tensors: Mapping[str, Any],
    known: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    folder: str | os.PathLike[str],
) -> None:
    """See that weights are plain floats under the network's own names.

    tensors: what was found, by name: anything with a dtype. known: the network's own, by name. config: of config.json,
    whose quantization_config names the method more exactly than names of tensors do; it alone decides nothing, because
    it often stays behind when weights are turned back into floats.

    Raises: CheckpointError that names the method.
    """
    others = [name for name in tensors if name not in known]
    signs = [method for endings, method in SIGNS if any(name.endswith(endings) for name in others)]
    kinds = {name: str(info.dtype).removeprefix("torch.") for name, info in tensors.items() if name in known}
    odd = [f"'{name}' is {kind}" for name, kind in kinds.items() if kind not in FLOATS and _is_float(known[name])]
    if not signs and not odd:
        return
    said = _said(config or {})
    beside = next((method for name, method in SIDE_FILES.items() if (Path(folder) / name).exists()), "")
    method = f"{said}, as config.json says" if said else beside or (signs[0] if signs else odd[0])
    raise CheckpointError(
        f"{folder}: its weights are quantised ({method}); needed are floats of 16 to 64 bits: take the checkpoint it "
        "was made from, or dequantise it with its own library and save it"
    )


def _is_float(tensor: Any) -> bool:
    return str(tensor.dtype).removeprefix("torch.") in FLOATS


def _said(config: Mapping[str, Any]) -> str:
    """Method and bits in quantization_config, wherever it stands."""
    places = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    for place in places:
        for key in ("quantization_config", "compression_config", "quantization"):
            entry = place.get(key)
            if not isinstance(entry, Mapping) or not entry:
                continue
            method = str(entry.get("quant_method") or "bitsandbytes" * any("bnb" in str(name) for name in entry))
            kind = entry.get("bnb_4bit_quant_type") if entry.get("load_in_4bit") else None
            bits = entry.get("bits") or ("8" if entry.get("load_in_8bit") else "4" if entry.get("load_in_4bit") else "")
            detail = str(kind).upper() if kind else f"{bits} bits" if bits else ""
            return one_line(" ".join(part for part in (method or key, detail) if part), 60)
    return ""
