"""The header of a safetensors file: what a file contains, and whether it is complete."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MERGED = "layerdiffuse_merged"  # metadata that scripts/merge-patch writes into a checkpoint

Header = Mapping[str, Any]


class BadHeader(Exception):
    """The file cannot be read or is not a complete safetensors file; the message says which, without its path."""


def read(path: Path) -> dict[str, Any]:
    """Returns the header of a complete file: tensors by name, and `__metadata__` if there is any.

    Raises:
        BadHeader: the file cannot be read, or was cut short.
    """
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as opened:
            (header_bytes,) = struct.unpack("<Q", opened.read(8))
            header: dict[str, Any] = json.loads(opened.read(min(header_bytes, size_bytes)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected_bytes = 8 + header_bytes + max(ends, default=0)
    except OSError as exc:
        raise BadHeader(f"cannot be read: {exc.strerror}") from exc
    except (ValueError, struct.error, LookupError, AttributeError, TypeError) as exc:
        raise BadHeader("not a complete safetensors file") from exc
    if size_bytes != expected_bytes:
        raise BadHeader(f"has {size_bytes} bytes, its header says {expected_bytes}")
    return header


def shapes(header: Header) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor by its name."""
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def is_merged(header: Header) -> bool:
    """Returns whether it is a checkpoint that scripts/merge-patch made: the attention patch is in its weights."""
    return MERGED in (header.get("__metadata__") or {})
