#!/usr/bin/env python3
"""Measures time and bytes of PNG and lossless WebP, relative to ComfyUI's SaveImage (Pillow, level 4), in one run.

Run it in the ComfyUI environment: `.comfyui/venv/bin/python benchmarks/png.py [PICTURE …]`.
Every encoder is timed from the float tensor to the bytes. Its output is decoded and compared. Ratios are
of CPU time on one thread, because wall time on a shared machine depends on other programs.
"""

import argparse
import os
import statistics
import struct
import sys
import time
import zlib
from io import BytesIO
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "custom_nodes" / "layerdiffuse_alpha"))

import png  # the pack's module; its package would import ComfyUI

SIDE = 1024
BASELINE = "Pillow level 4 (SaveImage)"
OURS = "ours: Average + ISA-L 1"
GOAL_TIME, GOAL_BYTES = 0.10, 1.2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="*", type=Path, help="RGBA pictures to encode as well, resized to 1024x1024")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each encoder (default: 9)")
    options = parser.parse_args()
    if png.isal_zlib is None:
        parser.error("isal is not installed in this environment")
    torch.set_num_threads(1)
    pictures = {
        "object, grain 2 %": synthetic(grain=0.02),
        "object, grain 0.5 %": synthetic(grain=0.005),
        "object, no grain": synthetic(grain=0),
        **{path.name: opened(path) for path in options.pictures},
    }
    for name, rgba in pictures.items():
        report(name, rgba, options.rounds)
    return 0


def report(name: str, rgba: torch.Tensor, rounds: int) -> None:
    """Prints one table, and whether our encoder meets both goals on this picture."""
    encoders = all_encoders()
    sizes = {label: checked(encode(rgba), rgba, label) for label, encode in encoders.items()}
    times: dict[str, list[float]] = {label: [] for label in encoders}
    walls: dict[str, list[float]] = {label: [] for label in encoders}
    for _ in range(rounds):
        for label, encode in encoders.items():  # in turn, so that other load on the machine affects all of them
            started, started_cpu = time.perf_counter(), time.thread_time()
            encode(rgba)
            times[label].append(1e3 * (time.thread_time() - started_cpu))
            walls[label].append(1e3 * (time.perf_counter() - started))
    medians = {label: statistics.median(values) for label, values in times.items()}
    print(f"\n{name}, {SIDE}x{SIDE} RGBA, median of {rounds}\n")
    print("| encoder | CPU ms | minimum wall ms | time ratio | bytes | bytes ratio |\n|---|---|---|---|---|---|")
    for label, median in medians.items():
        ratios = f"{median / medians[BASELINE]:.3f} | {sizes[label]:,} | {sizes[label] / sizes[BASELINE]:.3f}"
        print(f"| {label} | {median:.1f} | {min(walls[label]):.1f} | {ratios} |")
    for what, ratio, goal in (
        ("time", medians[OURS] / medians[BASELINE], GOAL_TIME),
        ("bytes", sizes[OURS] / sizes[BASELINE], GOAL_BYTES),
    ):
        print(f"\n{what}: {ratio:.3f}, goal <= {goal:.2f} {'met' if ratio <= goal else 'MISSED'}")


def all_encoders():
    """Returns {label: function of the tensor to the bytes}, the baseline first."""
    return {
        BASELINE: lambda rgba: by_pillow(rgba, compress_level=4),
        "Pillow level 1": lambda rgba: by_pillow(rgba, compress_level=1),
        "Pillow level 1, RLE (our fallback)": lambda rgba: by_pillow(rgba, compress_level=1, compress_type=zlib.Z_RLE),
        "NumPy Average + zlib 1": lambda rgba: assembled(rgba, png.filtered, lambda rows: zlib.compress(rows, 1)),
        OURS: png.encode,
        **{
            f"{name} + ISA-L {level}": lambda rgba, f=row_filter, n=level: assembled(
                rgba, f, lambda rows: png.isal_zlib.compress(rows, n)
            )
            for name, row_filter, level in (
                ("None", none, 1),
                ("Sub", sub, 1),
                ("Up", up, 1),
                ("Average", png.filtered, 2),
                ("Average", png.filtered, 3),
                ("Paeth", paeth, 1),
            )
        },
        **{
            f"WebP method {method}, quality {quality}{' (ours)' * ours}": lambda rgba, m=method, q=quality: by_pillow(
                rgba, "WEBP", lossless=True, exact=True, method=m, quality=q
            )
            for method, quality, ours in ((0, 20, False), (1, 20, True), (1, 75, False), (4, 75, False))
        },
    }


def by_pillow(rgba: torch.Tensor, picture_format: str = "PNG", **options: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(png.quantise(rgba)).save(buffer, picture_format, **options)
    return buffer.getvalue()


def assembled(rgba: torch.Tensor, row_filter, deflate) -> bytes:
    pixels = png.quantise(rgba)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", deflate(row_filter(pixels))), (b"IEND", b""))
    return png.SIGNATURE + b"".join(
        struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", png.isal_zlib.crc32(kind + body))
        for kind, body in chunks
    )


def none(pixels: np.ndarray) -> np.ndarray:
    rows, result = prepared(pixels, 0)
    result[:, 1:] = rows
    return result


def sub(pixels: np.ndarray) -> np.ndarray:
    rows, result = prepared(pixels, 1)
    result[:, 1:5] = rows[:, :4]
    np.subtract(rows[:, 4:], rows[:, :-4], out=result[:, 5:])
    return result


def up(pixels: np.ndarray) -> np.ndarray:
    rows, result = prepared(pixels, 2)
    result[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=result[1:, 1:])
    return result


def paeth(pixels: np.ndarray) -> np.ndarray:
    rows, result = prepared(pixels, 4)
    padded = np.zeros((rows.shape[0] + 1, rows.shape[1] + 4), np.int16)
    padded[1:, 4:] = rows
    left, above, corner = padded[1:, :-4], padded[:-1, 4:], padded[:-1, :-4]
    by_left, by_above = above - corner, left - corner
    by_corner = np.abs(by_left + by_above)
    by_left, by_above = np.abs(by_left), np.abs(by_above)
    nearest = np.where(by_above <= by_corner, above, corner)
    nearest = np.where((by_left <= by_above) & (by_left <= by_corner), left, nearest)
    np.subtract(rows, nearest.astype(np.uint8), out=result[:, 1:])
    return result


def prepared(pixels: np.ndarray, filter_type: int) -> tuple[np.ndarray, np.ndarray]:
    rows = pixels.reshape(len(pixels), -1)
    result = np.empty((rows.shape[0], 1 + rows.shape[1]), np.uint8)
    result[:, 0] = filter_type
    return rows, result


def checked(encoded: bytes, rgba: torch.Tensor, label: str) -> int:
    """Returns the size in bytes of what decodes to the pixels of `rgba`."""
    if not np.array_equal(np.asarray(Image.open(BytesIO(encoded))), png.quantise(rgba)):
        raise ValueError(f"{label} changed pixels")
    return len(encoded)


def synthetic(grain: float) -> torch.Tensor:
    """Returns (H, W, 4): soft gradients and blurred noise, some grain, an alpha of a blob with a soft edge."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    gradients = np.stack((np.sin(3 * x + 2 * y), np.cos(2 * x - 3 * y), x * y), axis=-1)
    coarse = [Image.fromarray(rng.integers(0, 256, (SIDE // 16, SIDE // 16), np.uint8)) for _ in range(3)]
    texture = np.stack([np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in coarse], axis=-1)
    colour = 0.4 + 0.25 * gradients + 0.4 * (texture / 255 - 0.5) + grain * rng.standard_normal((SIDE, SIDE, 3))
    radius = 0.36 + 0.04 * np.sin(9 * np.arctan2(y - 0.5, x - 0.5))
    alpha = (radius - np.hypot(x - 0.5, y - 0.5)) / 0.03
    return torch.from_numpy(np.dstack((colour, alpha)).clip(0, 1).astype(np.float32))


def opened(path: Path) -> torch.Tensor:
    image = Image.open(path).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)


if __name__ == "__main__":
    sys.exit(main())
