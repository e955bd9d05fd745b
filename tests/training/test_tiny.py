"""The trained modules compute the same as ComfyUI."""

import numpy as np
import pytest
import safetensors.torch
import torch
from comfyui_library import ROOT

from training import decoder, export, patch, tiny, transparency, unet

MODELS = ROOT / "models"


@pytest.fixture(scope="module")
def loaded():
    """(model, clip, vae) of the committed checkpoint, loaded by ComfyUI's own loader node."""
    import nodes
    import tiny_sdxl  # noqa: F401 -- registers the family

    return nodes.CheckpointLoaderSimple().load_checkpoint("tiny_sdxl.safetensors")


@pytest.fixture(scope="module")
def trained():
    """The modules of the training with the committed weights."""
    tensors = safetensors.torch.load_file(MODELS / export.CHECKPOINT)
    base = tiny.base_model()
    text = tiny.text_encoders()
    base.diffusion_model.load_state_dict(part(tensors, "model.diffusion_model."))
    clips = base.model_config.process_clip_state_dict(tensors)
    text.load_state_dict({name: tensor.float() for name, tensor in clips.items()}, strict=False)
    return {"model": base, "text": text}


def part(tensors, prefix):
    return {name.removeprefix(prefix): tensor.float() for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.mark.parametrize("prompt", ["a red apple", "", "bad, ugly", "緑の星、きれい", "word " * 70])
def test_text_is_encoded_as_comfyui_encodes_it(loaded, trained, prompt):
    """Context and pooled text of the training equal those of ComfyUI's CLIP."""
    _, clip, _ = loaded
    tokens = clip.tokenize(prompt)
    (context, pooled) = clip.encode_from_tokens(tokens, return_pooled=True)
    ours = torch.tensor([[[token for token, _ in tokens[encoder][0]]] for encoder in ("l", "g")])
    with torch.inference_mode():
        our_context, our_pooled = tiny.encode_text(trained["text"], ours)
    torch.testing.assert_close(our_context, context, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(our_pooled, pooled, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 24)])
def test_noise_is_removed_as_comfyui_removes_it(loaded, trained, height, width):
    """The training's U-Net has the same output as ComfyUI's sampler sees, including size conditions."""
    model, clip, _ = loaded
    generator = torch.Generator().manual_seed(1)
    noisy = 3 * torch.randn(1, 4, height, width, generator=generator)
    context, pooled = clip.encode_from_tokens(clip.tokenize("a red apple"), return_pooled=True)
    sigma = torch.tensor([2.5])
    conditions = model.model.encode_adm(pooled_output=pooled, height=8 * height, width=8 * width)
    with torch.inference_mode():
        clean = model.model.apply_model(noisy, sigma, c_crossattn=context, y=conditions)
        ours = unet.denoise(trained["model"], noisy, sigma, (context, pooled))
    torch.testing.assert_close(ours, clean.float(), atol=2e-3, rtol=2e-3)


def test_the_patch_file_adds_what_the_training_added(trained):
    """Base plus up @ down equals the training's hooks, and the file has an entry for each layer."""
    tensors = safetensors.torch.load_file(MODELS / export.PATCH)
    attached = patch.attach(trained["model"])
    assert set(export.patch_file(attached)) == set(tensors)
    name = next(iter(attached))
    key = f"diffusion_model.{name.replace('/', '.')}.weight::lora::"
    layer = trained["model"].get_submodule("diffusion_model." + name.replace("/", "."))
    inputs = torch.randn(5, layer.in_features)
    before = torch.nn.functional.linear(inputs, layer.weight, layer.bias)
    with torch.inference_mode():
        attached[name].up.copy_(tensors[key + "0"])
        attached[name].down.copy_(tensors[key + "1"])
        expected = before + inputs @ (tensors[key + "0"].float() @ tensors[key + "1"].float()).T
        torch.testing.assert_close(layer(inputs), expected, atol=1e-4, rtol=1e-4)


def test_an_opaque_sprite_has_no_offset():
    """Opaque areas have an ordinary picture's latent; transparent areas do not."""
    offsets = transparency.OffsetEncoder()
    rgb, alpha = torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    alpha[..., :32] = 0.3
    with torch.inference_mode():
        offset = offsets.offset(rgb, alpha)
    assert offset.shape == (1, 4, 8, 8)
    assert not offset[..., 4:].any()
    assert offset[..., :4].any()


def test_the_border_is_as_wide_as_it_says():
    """Only the outermost pixels of a sampled picture are known to be transparent."""
    border = decoder.border_of(torch.zeros(2, 4, 8, 8), torch.zeros(5, 3, 64, 64))
    assert border.shape == (2, 1, 64, 64)
    inside = border[:, :, decoder.BORDER : -decoder.BORDER, decoder.BORDER : -decoder.BORDER]
    assert not inside.any()
    assert border.sum() == 2 * (64 * 64 - inside[0].numel())


@pytest.mark.parametrize("seed", range(5))
def test_shifted_tensors_stay_aligned(seed):
    """Latent, picture and known alpha are shifted alike; the drawn ones before them are not changed."""
    latent = torch.randn(3, 4, 8, 8)
    pictures = latent[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)
    border = pictures[1:, :1]
    moved, moved_pictures, moved_border = decoder.rolled(latent, pictures, border, np.random.default_rng(seed))
    assert torch.equal(moved[0], latent[0])
    assert torch.equal(moved_pictures, moved[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3))
    assert torch.equal(moved_border, moved_pictures[1:, :1])
