import importlib.util
import io
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layerdiffuse_alpha import png
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NON_ASCII = "größe: 林檎 🍎"


def pixels_of(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.mode == "RGBA"
        return np.array(image)


def rounded(rgba: torch.Tensor) -> np.ndarray:
    return np.clip(np.rint(rgba.float().numpy() * np.float32(255)), 0, 255).astype(np.uint8)


def chunks(encoded: bytes) -> list[tuple[bytes, bytes]]:
    """Returns (type, body) of each chunk, with every length and checksum compared."""
    assert encoded.startswith(SIGNATURE)
    found, position = [], len(SIGNATURE)
    while position < len(encoded):
        size, kind = struct.unpack_from(">I4s", encoded, position)
        body = encoded[position + 8 : position + 8 + size]
        assert len(body) == size
        assert struct.unpack_from(">I", encoded, position + 8 + size) == (zlib.crc32(kind + body),)
        found.append((kind, body))
        position += 12 + size
    return found


def photograph(height: int, width: int) -> torch.Tensor:
    """Soft gradients with grain and an alpha that rises softly from nothing."""
    rng = np.random.default_rng(height * width)
    y, x = np.mgrid[:height, :width] / max(height, width)
    colour = 0.5 + 0.3 * np.stack((np.sin(5 * x), np.cos(4 * y), np.sin(3 * (x + y))), axis=-1)
    colour += 0.02 * rng.standard_normal(colour.shape)
    alpha = (0.45 - np.hypot(x - 0.5, y - 0.5)) * 10
    return torch.from_numpy(np.dstack((colour, alpha)).clip(0, 1).astype(np.float32))


@pytest.fixture
def without_isal(monkeypatch):
    """The module, imported without `isal`."""
    monkeypatch.setitem(sys.modules, "isal", None)
    spec = importlib.util.spec_from_file_location("png_without_isal", Path(png.__file__))
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@settings(max_examples=60)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    kind=st.sampled_from(["random", "two values", "flat", "beyond [0, 1]"]),
    channels_first=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_pixel_survives(height, width, kind, channels_first, dtype, seed):
    """Pillow decodes round(255 x value) in fp32, for any size, values, memory layout and dtype."""
    generator = torch.Generator().manual_seed(seed)
    rgba = torch.rand(4, height, width, generator=generator)
    if kind == "two values":
        rgba = rgba.round()
    elif kind == "flat":
        rgba = rgba[:, :1, :1].expand(4, height, width)
    elif kind == "beyond [0, 1]":
        rgba = rgba * 3 - 1
    rgba = rgba.to(dtype).movedim(0, -1)
    encoded = png.encode(rgba if channels_first else rgba.contiguous())
    assert np.array_equal(pixels_of(encoded), rounded(rgba))


@pytest.mark.parametrize("size", [(64, 64), (64, 1536), (1024, 1024), (1536, 1536)])
def test_pictures_of_real_sizes_survive(size):
    """A photo-like and a fully transparent picture of the real sizes decode to the same pixels."""
    for rgba in (photograph(*size), torch.zeros(*size, 4)):
        assert np.array_equal(pixels_of(png.encode(rgba)), rounded(rgba))


@pytest.mark.parametrize("neighbours", [(0, 0), (0, 255), (255, 255), (254, 255), (128, 127)])
def test_every_value_survives_next_to_extreme_neighbours(neighbours):
    """The mean of left and above is taken without overflow for all 256 values next to them."""
    left, above = neighbours
    pixels = np.zeros((512, 2, 4), np.uint8)
    pixels[0::2, 1] = above
    pixels[1::2, 0] = left
    pixels[1::2, 1] = np.arange(256, dtype=np.uint8)[:, None]
    assert np.array_equal(pixels_of(png.encode(torch.from_numpy(pixels) / 255)), pixels)


def test_the_structure_is_strictly_a_png():
    """IHDR, one IDAT and IEND have correct checksums, the zlib stream has exactly the rows, and Pillow verifies it."""
    encoded = png.encode(photograph(64, 128))
    found = chunks(encoded)
    assert [kind for kind, _ in found] == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", found[0][1]) == (128, 64, 8, 6, 0, 0, 0)
    inflate = zlib.decompressobj()
    assert len(inflate.decompress(found[1][1])) == 64 * (1 + 128 * 4)
    assert inflate.eof
    assert inflate.unused_data == b""
    assert found[2][1] == b""
    with Image.open(io.BytesIO(encoded)) as image:
        image.verify()


def test_isal_encodes_here():
    """This environment has `isal`, so the tests above ran the fast path."""
    assert png.isal_zlib is not None


def test_without_isal_pillow_writes_the_same_pixels_and_text(without_isal):
    """Without `isal`, pixels and text chunks are the same."""
    assert without_isal.isal_zlib is None
    rgba, text = photograph(64, 192), {"prompt": "{}", "more": NON_ASCII}
    plain, quick = without_isal.encode(rgba, text), png.encode(rgba, text)
    assert np.array_equal(pixels_of(plain), pixels_of(quick))
    texts = [[(kind, body) for kind, body in chunks(each) if kind in (b"tEXt", b"iTXt")] for each in (plain, quick)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2
    hidden = torch.tensor([0.9, 0.8, 0.7, 0.0]).expand(2, 2, 4)
    assert pixels_of(without_isal.encode(hidden, zero_hidden_colour=True)).max() == 0


@pytest.mark.parametrize("value", ["plain", "größe", NON_ASCII, ""])
def test_text_is_stored_before_the_pixels_as_pillow_stores_it(value):
    """Pillow reads any text back, and the chunks are those that Pillow itself would write."""
    rgba = photograph(64, 64)
    encoded = png.encode(rgba, {"workflow": value})
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.text == {"workflow": value}
    info = png.PngInfo()
    info.add_text("workflow", value)
    buffer = io.BytesIO()
    Image.fromarray(rounded(rgba)).save(buffer, "PNG", pnginfo=info)
    assert chunks(encoded)[:2] == chunks(buffer.getvalue())[:2]
    assert np.array_equal(pixels_of(encoded), rounded(rgba))


def test_hidden_colour_becomes_black_only_if_the_rounded_alpha_is_zero():
    """With the option, colour becomes black if alpha rounds to 0 and stays if it rounds to 1; otherwise it stays."""
    rgba = torch.full((64, 64, 4), 0.8)
    rgba[..., 3] = 1.0
    rgba[0, :, 3], rgba[1, :, 3], rgba[2, :, 3] = 0.0, 0.4 / 255, 0.6 / 255
    kept, zeroed = pixels_of(png.encode(rgba)), pixels_of(png.encode(rgba, zero_hidden_colour=True))
    assert np.array_equal(kept, rounded(rgba))
    assert (zeroed[:2] == 0).all()
    assert np.array_equal(zeroed[2:], kept[2:])
    assert kept[2, 0].tolist() == [204, 204, 204, 1]


def test_encoding_does_not_change_the_picture():
    """The caller's tensor, which ComfyUI caches, is not written to."""
    rgba = torch.rand(64, 64, 4)
    rgba[:32, :, 3] = 0
    before = rgba.clone()
    png.encode(rgba, zero_hidden_colour=True)
    assert torch.equal(rgba, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_statistics_are_of_each_picture(dtype):
    """The shares of alpha under 0.02 and over 0.98, and the mean, equal those counted independently per picture."""
    images = torch.rand(3, 64, 96, 4).to(dtype)
    images[0, :32, :, 3], images[1, :16, :, 3] = 0.0, 1.0
    for rgba, found in zip(images, png.alpha_statistics(images), strict=True):
        alpha = rgba[..., 3].float().numpy()
        assert found.transparent == pytest.approx(np.mean(alpha < 0.02), abs=1e-7)
        assert found.opaque == pytest.approx(np.mean(alpha > 0.98), abs=1e-7)
        assert found.mean == pytest.approx(alpha.mean(dtype=np.float64), abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("channel", [0, 3])
def test_one_value_that_is_not_finite_is_an_error(bad, channel):
    """One NaN or infinity, in any picture and channel, is an error."""
    images = torch.rand(2, 64, 64, 4)
    images[1, 63, 62, channel] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        png.alpha_statistics(images)


def test_time_and_bytes_stay_in_bounds():
    """Encoding 1024x1024 takes well under a third of Pillow level 4's time and at most 1.2 of its bytes.

    The benchmark checks the goal of a tenth. Here, load from other programs must not fail the build.
    """

    def least_seconds(encode):
        took = []
        for _ in range(3):
            started = time.perf_counter()
            encode()
            took.append(time.perf_counter() - started)
        return min(took)

    def by_pillow():
        buffer = io.BytesIO()
        Image.fromarray(rounded(rgba)).save(buffer, "PNG", compress_level=4)
        return buffer.getvalue()

    rgba = photograph(1024, 1024)
    assert least_seconds(lambda: png.encode(rgba)) < least_seconds(by_pillow) / 3
    assert len(png.encode(rgba)) <= 1.2 * len(by_pillow())
