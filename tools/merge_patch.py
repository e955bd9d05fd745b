"""Writes a checkpoint whose weights already contain a LayerDiffuse attention or conv patch.

Run it as `scripts/merge-patch --checkpoint sd_xl_base_1.0.safetensors
--patch layer_xl_transparent_attn.safetensors --output FILE`. Each patched weight is base + weight x
difference, computed in fp32 and rounded once to the checkpoint's dtype. All other tensors are copied
byte for byte. The metadata entry `layerdiffuse_merged` records what was merged; a graph that loads the
result must not patch it again.

Only one tensor is in memory at a time. The output file appears only when it is complete.
"""

import argparse
import hashlib
import json
import logging
import math
import os
import shutil
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
MERGED = "layerdiffuse_merged"
CHECKPOINT_PREFIX = "model."  # the checkpoint's model.diffusion_model.X is the patch's diffusion_model.X
SUFFIX = ".safetensors"
HEADER_SIZE = struct.Struct("<Q")
BLOCK_BYTES = 1 << 24
NAMED_FAULTS = 3


class Refused(ValueError):
    """The request would not produce the patched model."""


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class Header:
    """A safetensors header; the tensors are in the order of their bytes, which have no gaps."""

    metadata: dict[str, str]
    tensors: list[Tensor]
    data_start: int


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="path, or name in models/checkpoints")
    parser.add_argument("--patch", required=True, help="path, or name in models/layer_model")
    parser.add_argument("--output", required=True, type=Path, help="file to write; must not exist")
    parser.add_argument("--weight", type=float, default=1.0, help="strength of the patch (default: 1.0)")
    parser.add_argument("--comfyui", type=Path, default=ROOT / ".comfyui" / "app", help="ComfyUI tree")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder to look names up in")
    options = parser.parse_args(arguments)
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path[:0] = [str(options.comfyui), str(ROOT / "custom_nodes" / "layerdiffuse_alpha")]
    from safetensors import SafetensorError

    try:
        count = merge(
            found(options.checkpoint, options.models / "checkpoints"),
            found(options.patch, options.models / "layer_model"),
            options.output,
            options.weight,
        )
    except (ValueError, OSError, SafetensorError) as exc:
        print(f"merge-patch: {exc}", file=sys.stderr)
        return 1
    print(f"{options.output}: {count} weights patched, {options.output.stat().st_size / 1e6:.1f} MB")
    return 0


def found(name_or_path: str, folder: Path) -> Path:
    """Returns the file of that path or, failing that, of that name in `folder`."""
    for path in (Path(name_or_path), folder / name_or_path):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{name_or_path} is neither a file nor in {folder}")


def merge(checkpoint: Path, patch_file: Path, output: Path, weight: float) -> int:
    """Writes `output`; returns how many weights the patch changed.

    Raises:
        ValueError: the patch does not fit, is already in the checkpoint, or would make weights infinite.
        SafetensorError: an input is not a safetensors file.
        OSError: a file cannot be read or written, or there is too little disk space.
    """
    from safetensors import safe_open
    from tqdm import tqdm

    check_request(output, weight)
    header = read_header(checkpoint)
    if MERGED in header.metadata:
        raise Refused(f"{checkpoint.name} already has a patch in its weights: {header.metadata[MERGED]}")
    kinds = landing_places(patch_file, header)
    record = {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": sha256(checkpoint),
        "patch": patch_file.name,
        "patch_sha256": sha256(patch_file),
        "weight": weight,
    }
    head = packed_header(header, {**header.metadata, MERGED: json.dumps(record)})
    data_bytes = sum(tensor.size_bytes for tensor in header.tensors)
    check_space(output.parent, len(head) + data_bytes)
    with (
        replacing(output) as target,
        checkpoint.open("rb") as source,
        safe_open(patch_file, framework="pt") as patch_tensors,
        tqdm(total=data_bytes, unit="B", unit_scale=True, desc=output.name, disable=None) as bar,
    ):
        target.write(head)
        source.seek(header.data_start)
        for tensor in header.tensors:
            if tensor.name in kinds:
                base = bytearray(read_exactly(source, tensor.size_bytes))
                target.write(patched(tensor, base, differences(tensor, kinds[tensor.name], patch_tensors), weight))
                bar.update(tensor.size_bytes)
            else:
                for size in blocks(tensor.size_bytes):
                    target.write(read_exactly(source, size))
                    bar.update(size)
    return len(kinds)


def check_request(output: Path, weight: float) -> None:
    if not math.isfinite(weight) or weight == 0:
        raise Refused(f"weight must be a finite number other than 0, got {weight}")
    if output.suffix != SUFFIX:
        raise Refused(f"output must end in {SUFFIX}, got {output.name}")
    if output.exists():
        raise FileExistsError(f"{output} already exists")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output.parent} is not a folder")


def check_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OSError(f"{folder} has {free_bytes / 1e9:.2f} GB free, the output needs {needed_bytes / 1e9:.2f} GB")


def read_header(path: Path) -> Header:
    """Returns the header of a safetensors file (github.com/huggingface/safetensors, "Format")."""
    from safetensors import safe_open

    with safe_open(path, framework="pt"):
        pass  # this checked what the code below assumes: sizes, bounds, no gaps
    with path.open("rb") as file:
        (size,) = HEADER_SIZE.unpack(file.read(HEADER_SIZE.size))
        fields: dict[str, Any] = json.loads(file.read(size))
    metadata = fields.pop("__metadata__", None) or {}
    in_order = sorted(fields.items(), key=lambda item: item[1]["data_offsets"])
    tensors = [
        Tensor(name, field["dtype"], tuple(field["shape"]), field["data_offsets"][1] - field["data_offsets"][0])
        for name, field in in_order
    ]
    return Header(metadata, tensors, HEADER_SIZE.size + size)


def packed_header(header: Header, metadata: dict[str, str]) -> bytes:
    """Returns the leading bytes of a file with the same tensors in the same order and this metadata."""
    fields: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for tensor in header.tensors:
        offsets = [position, position + tensor.size_bytes]
        fields[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
        position += tensor.size_bytes
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned to eight bytes
    return HEADER_SIZE.pack(len(text)) + text


def landing_places(patch_file: Path, header: Header) -> dict[str, list[str]]:
    """Returns {checkpoint key: kinds of difference}, after checking that every part of the patch fits.

    Raises:
        ValueError: it does not, a weight would change its shape, or a weight's dtype is not supported.
    """
    import comfy.options

    comfy.options.enable_args_parsing()
    import patch  # the module of custom_nodes/layerdiffuse_alpha
    import torch

    tensors = read_header(patch_file).tensors
    if not tensors:
        raise Refused(f"{patch_file.name} has no tensors")
    entries = patch.parse({tensor.name: torch.empty(tensor.shape, device="meta") for tensor in tensors})
    targets = {
        tensor.name.removeprefix(CHECKPOINT_PREFIX): tensor
        for tensor in header.tensors
        if tensor.name.startswith(CHECKPOINT_PREFIX)
    }
    patch.check(entries, {key: torch.Size(tensor.shape) for key, tensor in targets.items()})
    kinds: dict[str, list[str]] = defaultdict(list)
    faults = []
    for (key, kind), parts in entries.items():
        target = targets[key]
        if kind == "diff" and tuple(parts[0].shape) != target.shape:
            shapes = f"{tuple(parts[0].shape)} is larger than the weight of {target.shape}"
            faults.append(f"{key}: the diff of {shapes}; ComfyUI would take the result for another model family")
        if target.dtype not in torch_dtypes():
            faults.append(f"{key}: the weight is {target.dtype}, expected one of {sorted(torch_dtypes())}")
        kinds[target.name].append(kind)
    if faults:
        more = f" (and {len(faults) - NAMED_FAULTS} more)" if len(faults) > NAMED_FAULTS else ""
        raise Refused(f"patch cannot be merged: {'; '.join(faults[:NAMED_FAULTS])}{more}")
    return dict(kinds)


def differences(tensor: Tensor, kinds: list[str], patch_tensors: Any) -> Iterator[Any]:
    """Yields each difference of the weight in fp32, of the weight's shape."""
    key = tensor.name.removeprefix(CHECKPOINT_PREFIX)
    for kind in kinds:
        first = patch_tensors.get_tensor(f"{key}::{kind}::0").float()
        if kind == "diff":
            yield first
        else:
            second = patch_tensors.get_tensor(f"{key}::{kind}::1").float()
            yield (first.flatten(1) @ second.flatten(1)).reshape(tensor.shape)


def patched(tensor: Tensor, base: bytearray, parts: Iterator[Any], weight: float) -> memoryview:
    """Returns the bytes of base + weight x differences, in the dtype of `base`."""
    import torch

    dtype = torch_dtypes()[tensor.dtype]
    total = torch.frombuffer(base, dtype=dtype).to(torch.float32, copy=True).reshape(tensor.shape)
    for part in parts:
        total.add_(part, alpha=weight)
    rounded = total.to(dtype)
    if not torch.isfinite(rounded).all():
        raise Refused(f"{tensor.name} is not finite in {tensor.dtype} after merging")
    return memoryview(rounded.reshape(-1).view(torch.uint8).numpy())


def torch_dtypes() -> dict[str, Any]:
    import torch

    return {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@contextmanager
def replacing(output: Path) -> Iterator[IO[bytes]]:
    """Yields a file that is renamed to `output` when everything is on disk, and removed if anything fails."""
    part = output.with_name(output.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def blocks(size_bytes: int) -> Iterator[int]:
    for start in range(0, size_bytes, BLOCK_BYTES):
        yield min(BLOCK_BYTES, size_bytes - start)


def read_exactly(file: IO[bytes], size_bytes: int) -> bytes:
    contents = file.read(size_bytes)
    if len(contents) != size_bytes:
        raise OSError(f"{file.name} ends early")
    return contents


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # ComfyUI's warnings about this machine's GPU belong in ComfyUI's log
    sys.exit(main())
