"""Stage d: the transparent decoder again, now on latents as the U-Net leaves them."""

import numpy as np
import torch
from torch import nn

from training import patch, tiny, unet
from training.latents import Batch
from training.loop import Losses, Settings, Stage, load_average
from training.place import Place
from training.transparency import decoder_losses, trained
from training.unet import trained_autoencoder, trained_base

SETTINGS = Settings(steps=400, learning_rate=1e-3, average=0.98)
TRANSPARENT, OPAQUE = 8, 4
SIGMAS = (0.03, 0.8)  # noise that the U-Net takes away again, leaving the faults it is known by


def train(place: Place) -> None:
    """Trains the decoder; `decoder.pt` holds it."""
    _, decoder = trained(place)
    decoder = decoder.requires_grad_(True).to(memory_format=torch.channels_last)
    autoencoder = trained_autoencoder(place)
    patched, base = patch.trained_patched(place), trained_base(place)
    transparent, opaque = patch.latents(place), unet.latents(place)

    def decode(latent: torch.Tensor) -> torch.Tensor:
        return autoencoder.taesd_decoder(latent).float()

    def loss(rng: np.random.Generator) -> Losses:
        with torch.no_grad(), place.autocast():
            sprite, plain = transparent.draw(TRANSPARENT, rng, square=True), opaque.draw(OPAQUE, rng, square=True)
            latent = torch.cat((left_over(patched, sprite, rng), left_over(base, plain, rng)))
            rgb, alpha = (place.tensor(part) for part in sprite.sprites.floats(sprite.index))
            rgb = torch.cat((rgb, decode(plain.latents).clamp(0, 1)))
            alpha = torch.cat((alpha, torch.ones_like(rgb[len(alpha) :, :1])))
            pictures = decode(latent)
        return decoder_losses(decoder, pictures, latent, rgb, alpha, place)

    Stage("decoder", place.state, {"decoder": decoder}, SETTINGS, loss, place.seed).run()


def left_over(modules: dict[str, nn.Module], batch: Batch, rng: np.random.Generator) -> torch.Tensor:
    """Returns the latents after noise was added and taken away by the U-Net in one step."""
    low, high = np.log(SIGMAS)
    sigmas = torch.from_numpy(np.exp(rng.uniform(low, high, len(batch.index))).astype(np.float32))
    sigmas = sigmas.to(batch.latents.device)
    noisy = batch.latents + sigmas[:, None, None, None] * torch.randn_like(batch.latents)
    return unet.denoise(modules["model"], noisy, sigmas, tiny.encode_text(modules["text"], batch.tokens))


def trained_decoder(place: Place) -> nn.Module:
    """Returns what this stage has trained."""
    decoder = tiny.transparent_decoder().to(place.device)
    load_average(place.state / "decoder.pt", {"decoder": decoder})
    return decoder.requires_grad_(False)
