"""Judges drawn pictures: a small classifier names the kind, and the decoder is measured on held-out sprites.

`python -m training judge --pictures FOLDER…` prints one line of JSON, for benchmarks/tiny_quality.py.
"""

import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
import views  # custom_nodes/layerdiffuse_alpha
from comfy.taesd.taesd import TAESD
from decoder import TransparentDecoder  # custom_nodes/layerdiffuse_alpha
from PIL import Image
from torch import nn

from training import dataset, export, sprites, tiny
from training.loop import Losses, Settings, Stage, load_average
from training.place import Place
from training.transparency import OffsetEncoder

SETTINGS = Settings(steps=900, learning_rate=2e-3, average=0.99)
BATCH = 48
SIDE = 64
OPAQUE_SHARE = 0.3
DRAWINGS = 27 * 12 * 12


class Classifier(nn.Sequential):
    """From premultiplied RGBA [batch, 4, SIDE, SIDE] in [0, 1] to a score for each kind."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after in ((4, 24), (24, 48), (48, 96), (96, 128)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 16, len(sprites.KINDS)))


def judge(place: Place, folders: list[Path]) -> str:
    """Returns JSON: for each folder the kinds of its pictures, sorted by file name; and the accuracies of the judge."""
    classifier = trained_classifier(place)
    held_out = place.held_out()
    rgb, alpha = held_out.floats(np.arange(len(held_out)))
    backgrounds = place.backgrounds()
    over = dataset.over_background(rgb, alpha, backgrounds, np.random.default_rng(place.seed))
    return json.dumps(
        {
            "kinds": [[kind_of(classifier, path) for path in sorted(folder.glob("*.png"))] for folder in folders],
            "classifier_accuracy": {
                "transparent": accuracy(classifier, small(place, rgb, alpha), held_out.kinds),
                "opaque": accuracy(classifier, small(place, over, np.ones_like(alpha)), held_out.kinds),
            },
            "alpha_error": alpha_error(place, held_out),
        }
    )


def trained_classifier(place: Place) -> Classifier:
    """Returns a classifier that was trained on drawings that nothing else learns from."""
    classifier = Classifier().to(place.device)
    drawn = dataset.load_sprites(place.state / "drawn", "judge", DRAWINGS, width=128, height=128, seed=place.seed + 2)
    backgrounds = place.backgrounds()

    def loss(rng: np.random.Generator) -> Losses:
        index = rng.integers(len(drawn), size=BATCH)
        rgb, alpha = drawn.floats(index)
        opaque = rng.random((BATCH, 1, 1, 1)) < OPAQUE_SHARE
        over = dataset.over_background(rgb, alpha, backgrounds, rng)
        seen = small(place, np.where(opaque, over, rgb), np.where(opaque, 1, alpha))
        noisy = seen + 0.05 * torch.rand(BATCH, 1, 1, 1, device=seen.device) * torch.randn_like(seen)
        return {"kind": F.cross_entropy(classifier(noisy), torch.from_numpy(drawn.kinds[index]).to(seen.device))}

    Stage("judge", place.state, {"classifier": classifier}, SETTINGS, loss, place.seed).run()
    load_average(place.state / "judge.pt", {"classifier": classifier})
    return classifier.eval()


def small(place: Place, rgb: dataset.Floats, alpha: dataset.Floats) -> torch.Tensor:
    """Returns premultiplied RGBA [n, 4, SIDE, SIDE] of straight pictures."""
    rgba = place.tensor(np.concatenate((rgb * alpha, alpha), axis=-1))
    return F.interpolate(rgba, (SIDE, SIDE), mode="area")


def accuracy(classifier: Classifier, seen: torch.Tensor, kinds: dataset.Indices) -> float:
    """Returns the share of pictures whose kind is recognised."""
    with torch.inference_mode():
        found = classifier(seen).argmax(1).cpu().numpy()
    return float((found == kinds).mean())


def kind_of(classifier: Classifier, path: Path) -> str:
    """Returns the kind that the classifier sees in an RGBA picture."""
    rgba = torch.from_numpy(np.asarray(Image.open(path).convert("RGBA"), np.float32) / 255).movedim(-1, 0)[None]
    rgba = torch.cat((rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]), dim=1)
    with torch.inference_mode():
        scores = classifier(F.interpolate(rgba, (SIDE, SIDE), mode="area").to(next(classifier.parameters()).device))
    return list(sprites.KINDS)[int(scores.argmax())]


def alpha_error(place: Place, held_out: dataset.Sprites) -> float:
    """Returns the mean absolute error of alpha, of encoding and decoding the sprites with the weights in `models/`."""
    models = export.ROOT / "models"
    autoencoder = TAESD()
    checkpoint = safetensors.torch.load_file(models / export.CHECKPOINT)
    prefix = "first_stage_model."
    autoencoder.load_state_dict(
        {name.removeprefix(prefix): value.float() for name, value in checkpoint.items() if name.startswith(prefix)}
    )
    offsets = OffsetEncoder()
    offsets.load_state_dict(_floats(models / export.ENCODER))
    decoder = TransparentDecoder.from_weights(_floats(models / export.DECODER))
    errors = []
    with torch.inference_mode():
        for index in np.array_split(np.arange(len(held_out)), len(held_out) // 16):
            rgb, alpha = held_out.floats(index)
            picture = autoencoder.taesd_encoder(place.tensor(dataset.over_grey(rgb, alpha)).cpu())
            latent = picture + offsets.offset(place.tensor(rgb).cpu(), place.tensor(alpha).cpu())
            pixels = autoencoder.taesd_decoder(latent).clamp(0, 1)
            found = views.decode(decoder, pixels, latent / tiny.LATENT_SCALE, passes=8, at_once=1)[:, 0]
            errors.append(np.abs(found.numpy() - alpha[..., 0]).mean())
    return float(np.mean(errors))


def _floats(path: Path) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in safetensors.torch.load_file(path).items()}
