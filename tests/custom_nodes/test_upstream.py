"""Compares the old pack's code with ours in one process, if LAYERDIFFUSE_UPSTREAM names its checkout.

The decoder's comparison needs the package `diffusers`, which the old pack needs and we do not.
"""

import importlib
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from layerdiffuse_alpha import patch, views, weights
from layerdiffuse_alpha.decoder import TransparentDecoder

CHECKOUT = os.environ.get("LAYERDIFFUSE_UPSTREAM")
pytestmark = pytest.mark.skipif(
    not CHECKOUT, reason="the old pack is missing: run scripts/setup --with-upstream and set LAYERDIFFUSE_UPSTREAM"
)

CHANNELS = (8, 8, 16, 16, 24, 32, 32)


@pytest.fixture
def upstream(monkeypatch):
    """Imports a module of the old pack's library, with an empty module instead of OpenCV, which is not needed here."""
    monkeypatch.syspath_prepend(CHECKOUT)
    monkeypatch.setitem(sys.modules, "cv2", ModuleType("cv2"))
    return lambda name: importlib.import_module(f"lib_layerdiffusion.{name}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(64, 64), (128, 64)])
def test_the_decoder_equals_the_old_packs(upstream, size):
    """One view, and the vote of eight, equal those of the old pack's decoder to 1e-5 in fp32, with random weights."""
    pytest.importorskip("diffusers")
    models = upstream("models")
    torch.manual_seed(0)
    theirs = models.UNet1024(in_channels=3, out_channels=4, block_out_channels=CHANNELS).eval()
    for parameter in theirs.parameters():
        scale = 0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        torch.nn.init.normal_(parameter, std=scale)
    torch.nn.init.constant_(theirs.conv_out.bias, 0.5)
    with torch.no_grad():
        theirs.conv_out.weight.mul_(0.3)
    ours = TransparentDecoder.from_weights(theirs.state_dict())
    pixels, latent = torch.rand(2, 3, *size), torch.randn(2, 4, size[0] // 8, size[1] // 8)
    with torch.no_grad():
        assert (ours(pixels, latent) - theirs(pixels, latent)).abs().max() <= 1e-5
    state = SimpleNamespace(model=theirs, load_device=torch.device("cpu"), dtype=torch.float32)
    for name in ("estimate_single_pass", "estimate_augmented", "decode_pixel"):
        setattr(state, name, getattr(models.TransparentVAEDecoder, name).__get__(state))
    expected = state.decode_pixel(pixels, latent)
    assert 0.1 < expected.mean() < 0.9
    for at_once in (1, 8):
        assert (views.decode(ours, pixels, latent, 8, at_once) - expected).abs().max() <= 1e-5


def test_a_patch_file_is_read_like_the_old_pack(upstream):
    """Our parser finds the same keys, kinds and tensors in a patch file as the old pack's."""
    tensors = weights.load("tiny_transparent_attn.safetensors")
    theirs = upstream("utils").to_lora_patch_dict(tensors)
    ours = patch.parse(tensors)
    assert dict(ours.keys()) == {key: kind for key, (kind, _) in theirs.items()}
    for (key, _), parts in ours.items():
        found = [part for part in theirs[key][1] if part is not None]
        assert all(torch.equal(a, b) for a, b in zip(parts, found, strict=True))
