"""The U-Net and its text encoders, the pictures with backgrounds that they learn from, and their loss."""

import numpy as np
import torch
from torch import nn

from training import dataset, tiny
from training.autoencoder import trained_autoencoder
from training.latents import Latents
from training.loop import load_average
from training.place import Place

SPRITES_SHARE = 0.125


def base(place: Place) -> dict[str, nn.Module]:
    """Returns new modules: `model`, with the U-Net in it, and `text`."""
    return {"model": tiny.base_model().to(place.device), "text": tiny.text_encoders().to(place.device)}


def parts(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Returns the modules of the base that are trained, under their names in the stage `diffusion`."""
    return {"unet": modules["model"].diffusion_model, "text": modules["text"]}


def trained_base(place: Place) -> dict[str, nn.Module]:
    """Returns what the stage has trained, frozen."""
    modules = base(place)
    load_average(place.state / "diffusion.pt", parts(modules))
    for module in modules.values():
        module.requires_grad_(False)
    return modules


def latents(place: Place) -> Latents:
    """Returns the latents of all sprites over backgrounds."""
    encoder = trained_autoencoder(place).taesd_encoder
    backgrounds = place.backgrounds()

    def encode(rgb: dataset.Floats, alpha: dataset.Floats, rng: np.random.Generator) -> torch.Tensor:
        pictures = place.tensor(dataset.over_background(rgb, alpha, backgrounds, rng))
        with torch.inference_mode(), place.autocast():
            return encoder(pictures).float()

    return Latents(place, "opaque", encode, SPRITES_SHARE)


def velocity_losses(
    modules: dict[str, nn.Module],
    text: tuple[torch.Tensor, torch.Tensor],
    clean: torch.Tensor,
    rng: np.random.Generator,
    given: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the squared error of the predicted velocity, [batch]; a batch covers all noise levels evenly.

    Args:
        given: more latents that the U-Net sees, without noise.
    """
    sampling = modules["model"].model_sampling
    count, steps = len(clean), len(sampling.sigmas)
    levels = ((rng.permutation(count) + rng.random(count)) * steps / count).astype(np.int64)
    sigmas = sampling.sigmas[levels].to(clean.device)
    noisy = clean + sigmas[:, None, None, None] * torch.randn_like(clean)
    error = (denoise(modules["model"], noisy, sigmas, text, given) - clean).square().mean((1, 2, 3))
    return error * (1 + sigmas**-2)  # arXiv 2202.00512: the same as the error of velocity


def denoise(
    model: nn.Module,
    noisy: torch.Tensor,
    sigmas: torch.Tensor,
    text: tuple[torch.Tensor, torch.Tensor],
    given: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the latents without their noise, float32, as ComfyUI's sampler gets them from the U-Net."""
    context, pooled = text
    height, width = (8 * side for side in noisy.shape[2:])
    sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
    conditions = torch.cat((pooled, model.embedder(sizes).flatten().to(pooled).expand(len(noisy), -1)), dim=1)
    sampling = model.model_sampling
    scaled, timesteps = sampling.calculate_input(sigmas, noisy), sampling.timestep(sigmas)
    if given is not None:
        scaled = torch.cat((scaled, given), dim=1)
    velocity = model.diffusion_model(scaled, timesteps, context=context, y=conditions).float()
    return sampling.calculate_denoised(sigmas, velocity, noisy)
