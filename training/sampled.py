"""Latents as jobs make them, with the real sampler at the real guidance; only parts of their alpha are known."""

from collections.abc import Callable
from types import SimpleNamespace

import comfy.k_diffusion.sampling as k_diffusion
import numpy as np
import torch
from comfy.sdxl_clip import SDXLTokenizer
from torch import nn
from tqdm import tqdm

from training import dataset, tiny, unet
from training.latents import Latents, tokenize
from training.place import Place

COUNT = 448
CHUNK = 64
STEPS = 20  # of the stored workflow, as sampler, scheduler and negative prompt are
NEGATIVE = "bad, ugly"
GUIDANCE = (2.5, 7.0)  # around the stored workflow's 5

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def load(place: Place, name: str, modules: dict[str, nn.Module], prompts: Latents, side: int) -> dataset.Floats:
    """Returns float16 [COUNT, 4, side / 8, side / 8] of this name, sampling them first where the folder lacks them.

    Args:
        modules: `model` and `text`, with a patch at work or without.
        prompts: whose prompts are drawn.
        side: of the pictures, in pixels.
    """
    path = place.state / "drawn" / f"sampled_{name}_{side}.npy"
    if not path.exists():
        rng = np.random.default_rng(place.seed)
        torch.manual_seed(place.seed)
        chunks = [
            _sample(modules, prompts.draw(CHUNK, rng).tokens, rng, side)
            for _ in tqdm(range(COUNT // CHUNK), desc=f"sampling {name} {side}x{side}")
        ]
        dataset.write(path, torch.cat(chunks).cpu().numpy().astype(np.float16))
    return np.load(path)


@torch.inference_mode()
def _sample(modules: dict[str, nn.Module], tokens: torch.Tensor, rng: np.random.Generator, side: int) -> torch.Tensor:
    """Returns latents of square pictures for prompts, int64 [2, batch, 77]."""
    sampling, device, count = modules["model"].model_sampling, tokens.device, tokens.shape[1]
    guidance = torch.from_numpy(rng.uniform(*GUIDANCE, count).astype(np.float32)).to(device)
    denoised = guided(modules, tokens, guidance)
    patcher = SimpleNamespace(get_model_object=lambda _: sampling)  # where ComfyUI's sampler looks for it
    denoised.inner_model = SimpleNamespace(model_patcher=patcher)  # type: ignore[attr-defined]
    sigmas = k_diffusion.get_sigmas_karras(STEPS, float(sampling.sigma_min), float(sampling.sigma_max), device=device)
    noise = torch.randn(count, 4, side // 8, side // 8, device=device) * torch.sqrt(1 + sigmas[0] ** 2)
    return k_diffusion.sample_dpmpp_2m_sde(denoised, noise, sigmas, extra_args={}, disable=True)


def guided(modules: dict[str, nn.Module], tokens: torch.Tensor, guidance: torch.Tensor) -> Denoise:
    """Returns a function of noisy latents and their noise levels, whose result is the latents without noise.

    Args:
        modules: `model` and `text`.
        tokens: of the prompts, int64 [2, batch, 77].
        guidance: CFG, [batch].
    """
    model, device, count = modules["model"], tokens.device, tokens.shape[1]
    negative = torch.tensor(tokenize(SDXLTokenizer(), NEGATIVE), device=device)[:, None].expand(-1, count, -1)
    positive, negative = (tiny.encode_text(modules["text"], part) for part in (tokens, negative))
    scale = guidance[:, None, None, None]

    def denoised(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        wanted, unwanted = (unet.denoise(model, noisy, sigma, text) for text in (positive, negative))
        return unwanted + scale * (wanted - unwanted)

    return denoised
