"""Stage d: the transparent decoder again, now on the U-Net's output.

For latents of drawn sprites, alpha is known everywhere. For latents that the real sampler made, it is
known at the most important places: one everywhere without the patch, and zero along the border with it.
Guidance shifts the level of transparent areas, and only these latents show by how much.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from training import dataset, patch, sampled, sprites, tiny, unet
from training.autoencoder import trained_autoencoder
from training.latents import Batch
from training.loop import Losses, Settings, Stage, load_average, start_of
from training.place import Place
from training.transparency import decoder_losses, trained
from training.unet import trained_base

SETTINGS = Settings(steps=1000, learning_rate=4e-4, average=0.99)
TRANSPARENT, OPAQUE = 5, 1
SAMPLED_TRANSPARENT, SAMPLED_OPAQUE = 6, 1
SIGMAS = (0.03, 0.8)  # noise that the U-Net removes again, leaving its typical errors
SOFT_TIMES = 3.0  # soft kinds are drawn this often, because the decoder finds their colour hardest
BORDER = 6  # pixels


def train(place: Place) -> None:
    """Trains the decoder and saves it in `decoder.pt`."""
    _, decoder = trained(place)
    decoder = decoder.requires_grad_(True).to(memory_format=torch.channels_last)
    autoencoder = trained_autoencoder(place)
    patched, base = patch.trained_patched(place), trained_base(place)
    transparent, opaque = patch.latents(place), unet.latents(place)
    from_patched = sampled.load(place, "patched", patched, transparent)
    from_base = sampled.load(place, "base", base, opaque)

    def decode(latent: torch.Tensor) -> torch.Tensor:
        return autoencoder.taesd_decoder(latent).float()

    def some(latents: dataset.Floats, count: int, rng: np.random.Generator) -> torch.Tensor:
        chosen = latents[rng.integers(len(latents), size=count)].astype(np.float32)
        return torch.from_numpy(chosen).to(place.device)

    def loss(rng: np.random.Generator) -> Losses:
        with torch.no_grad(), place.autocast():
            sprite = transparent.draw(TRANSPARENT, rng, often=sprites.SOFT, times=SOFT_TIMES)
            plain = opaque.draw(OPAQUE, rng)
            made, made_opaque = some(from_patched, SAMPLED_TRANSPARENT, rng), some(from_base, SAMPLED_OPAQUE, rng)
            latent = torch.cat((left_over(patched, sprite, rng), left_over(base, plain, rng), made_opaque, made))
            pictures = decode(latent)
            rgb, alpha = (place.tensor(part) for part in sprite.sprites.floats(sprite.index))
            whole = torch.cat((decode(plain.latents), pictures[-len(made) - len(made_opaque) : -len(made)]))
            border = border_of(made, pictures)
            latent, pictures, border = rolled(latent, pictures, border, rng)
            rgb = torch.cat((rgb, whole.clamp(0, 1), torch.zeros_like(pictures[-len(made) :])))
            alpha = torch.cat((alpha, torch.ones_like(whole[:, :1]), torch.zeros_like(border)))
            known = torch.cat((torch.ones_like(alpha[: -len(made)]), border))
        weight = alpha.clamp(min=0.01).sqrt()  # more than its alpha: smoke has little alpha, but it has a colour, too
        return decoder_losses(decoder, pictures, latent, rgb, alpha, known, weight, place)

    Stage("decoder", place.state, {"decoder": decoder}, place.settings(SETTINGS), loss, place.seed).run()


def rolled(
    latent: torch.Tensor, pictures: torch.Tensor, border: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the tensors with the last ones, those of `border`, shifted cyclically by random amounts.

    Otherwise the decoder would learn that the edge of a picture is transparent, instead of what transparency is.
    """
    count = len(border)
    down, right = (int(rng.integers(side)) for side in latent.shape[2:])

    def roll(tensor: torch.Tensor, cell: int) -> torch.Tensor:
        return tensor[-count:].roll((down * cell, right * cell), (2, 3))

    cell = pictures.shape[2] // latent.shape[2]
    latent = torch.cat((latent[:-count], roll(latent, 1)))
    return latent, torch.cat((pictures[:-count], roll(pictures, cell))), roll(border, cell)


def border_of(latents: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Returns [batch, 1, height, width], one in the outermost pixels and zero inside."""
    height, width = pictures.shape[2:]
    inside = torch.zeros(len(latents), 1, height - 2 * BORDER, width - 2 * BORDER, device=pictures.device)
    return F.pad(inside, [BORDER] * 4, value=1.0)


def left_over(modules: dict[str, nn.Module], batch: Batch, rng: np.random.Generator) -> torch.Tensor:
    """Returns the latents after noise was added and removed by the U-Net in one step."""
    low, high = np.log(SIGMAS)
    sigmas = torch.from_numpy(np.exp(rng.uniform(low, high, len(batch.index))).astype(np.float32))
    sigmas = sigmas.to(batch.latents.device)
    noisy = batch.latents + sigmas[:, None, None, None] * torch.randn_like(batch.latents)
    return unet.denoise(modules["model"], noisy, sigmas, tiny.encode_text(modules["text"], batch.tokens))


def trained_decoder(place: Place) -> nn.Module:
    """Returns what this stage has trained. If it continued from other weights: the mean of those and the new ones.

    The mean has most of the better colours, but does not take bright green things for opaque pictures, as the new
    weights did. See arXiv 2109.01903, "Robust fine-tuning of zero-shot models".
    """
    state = place.state / "decoder.pt"
    decoder, before = (tiny.transparent_decoder().to(place.device) for _ in range(2))
    load_average(state, {"decoder": decoder})
    if state.exists() and start_of(state).exists():
        load_average(start_of(state), {"decoder": before})
        for parameter, start in zip(decoder.parameters(), before.parameters(), strict=True):
            parameter.data = (parameter.data + start.data) / 2
    return decoder.requires_grad_(False)
