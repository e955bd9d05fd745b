"""Stage d: the autoencoder's decoder and the transparent decoder, together, on the U-Net's output.

For latents of drawn sprites, alpha is known everywhere. For latents that the real sampler made, it is
known at the most important places: one everywhere without the patch, and zero along the border with it.
Guidance shifts the level of transparent areas, and only these latents show by how much.

The encoder stays as it is, so latents do not change. The transparent decoder is small and sees the picture that the
autoencoder decodes. Here this picture may change in its favour, as long as its opaque parts stay right.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from training import autoencoder as opaque_stage
from training import dataset, patch, sampled, sprites, tiny, unet
from training.latents import SIZES, Batch
from training.loop import Losses, Settings, Stage, load_average
from training.place import Place
from training.transparency import decoder_losses, trained

SETTINGS = Settings(steps=1000, learning_rate=3e-4, average=0.99)
TRANSPARENT, OPAQUE = 5, 2  # pictures of 128x128 in a batch
SAMPLED_TRANSPARENT, SAMPLED_OPAQUE = 3, 2
SIDES = (128, 64)  # of square pictures; without small ones, the decoder took some of them for opaque
SMALL_SHARE = 0.2  # of the batches
CROPS = 4  # for the autoencoder's own loss
PICTURE_WEIGHT = 0.5
SIGMAS = (0.03, 0.8)  # noise that the U-Net removes again, leaving its typical errors
OFTEN = {**dict.fromkeys(sprites.SOFT, 3.0), "lace": 2.0}  # kinds whose colour or whose holes are difficult
BORDER = 6  # pixels


def train(place: Place) -> None:
    """Trains both decoders and saves them in `decoder.pt`."""
    _, decoder = trained(place)
    decoder = decoder.requires_grad_(True).to(memory_format=torch.channels_last)
    autoencoder = opaque_stage.trained_autoencoder(place)
    before = copy.deepcopy(autoencoder.taesd_decoder)
    picture_decoder = autoencoder.taesd_decoder.requires_grad_(True)
    patched, base = patch.trained_patched(place), unet.trained_base(place)
    transparent, opaque = patch.latents(place), unet.latents(place)
    from_patched = [sampled.load(place, "patched", patched, transparent, side) for side in SIDES]
    from_base = [sampled.load(place, "base", base, opaque, side) for side in SIDES]
    sizes = [size[:2] for size in SIZES]
    drawn, backgrounds = place.sprites(), place.backgrounds()

    def some(latents: dataset.Floats, count: int, rng: np.random.Generator) -> torch.Tensor:
        chosen = latents[rng.integers(len(latents), size=count)].astype(np.float32)
        return torch.from_numpy(chosen).to(place.device)

    def loss(rng: np.random.Generator) -> Losses:
        which = int(rng.random() < SMALL_SHARE)
        size, times = sizes.index((SIDES[which], SIDES[which])), (SIDES[0] // SIDES[which]) ** 2
        with torch.no_grad(), place.autocast():
            sprite, plain = transparent.draw(TRANSPARENT, rng, size, OFTEN), opaque.draw(OPAQUE, rng, size)
            made = some(from_patched[which], SAMPLED_TRANSPARENT * times, rng)
            made_opaque = some(from_base[which], SAMPLED_OPAQUE * times, rng)
            latent = torch.cat((left_over(patched, sprite, rng), left_over(base, plain, rng), made_opaque, made))
            rgb, alpha = (place.tensor(part) for part in sprite.sprites.floats(sprite.index))
            whole = before(torch.cat((plain.latents, made_opaque))).float().clamp(0, 1)
        with place.autocast():
            pictures = picture_decoder(latent).float()
        count = len(rgb)
        same = rgb * alpha + dataset.GREY * (1 - alpha)
        losses = {
            "same picture": (alpha * (pictures[:count] - same).abs()).mean(),
            "opaque picture": (pictures[count : count + len(whole)] - whole).abs().mean(),
            **_fresh_losses(rng),
        }
        border = border_of(made, pictures)
        latent, pictures, border = rolled(latent, pictures, border, rng)
        rgb = torch.cat((rgb, whole, torch.zeros_like(pictures[-len(made) :])))
        alpha = torch.cat((alpha, torch.ones_like(whole[:, :1]), torch.zeros_like(border)))
        known = torch.cat((torch.ones_like(alpha[: -len(made)]), border))
        weight = alpha.clamp(min=0.01).sqrt()  # more than its alpha: smoke has little alpha, but it has a colour, too
        return {
            **decoder_losses(decoder, pictures, latent, rgb, alpha, known, weight, place),
            **{name: PICTURE_WEIGHT * value for name, value in losses.items()},
        }

    def _fresh_losses(rng: np.random.Generator) -> Losses:
        """Of crops of opaque pictures, as in the stage `autoencoder`, that are encoded and decoded."""
        index = rng.integers(len(drawn), size=CROPS)
        fresh = place.tensor(opaque_stage.crop(opaque_stage.pictures_of(drawn, index, backgrounds, rng), rng))
        with place.autocast():
            code = autoencoder.taesd_encoder(fresh)
            again = picture_decoder(code + opaque_stage.NOISE * torch.randn_like(code)).float()
        return {
            "fresh": F.l1_loss(again, fresh) + 4 * F.mse_loss(again, fresh),
            "fresh edges": sum(F.l1_loss(again.diff(dim=d), fresh.diff(dim=d)) for d in (2, 3)),
        }

    modules = {"decoder": decoder, "picture_decoder": picture_decoder}
    Stage("decoder", place.state, modules, place.settings(SETTINGS), loss, place.seed).run()


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


def trained_decoders(place: Place) -> dict[str, nn.Module]:
    """Returns what this stage has trained, `decoder` and `picture_decoder`, frozen."""
    decoders = {"decoder": tiny.transparent_decoder(), "picture_decoder": tiny.autoencoder().taesd_decoder}
    load_average(place.state / "decoder.pt", decoders)
    return {name: module.requires_grad_(False) for name, module in decoders.items()}
