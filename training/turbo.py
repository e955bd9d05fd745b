"""Stage f: a LoRA with which the model draws in 4 steps without guidance, as with SDXL-Lightning.

The model with the transparency patch draws pictures at guidance 5 in small steps, which are exact enough to have the
same result each time. The LoRA learns to jump over four of these steps at once.
"""

from functools import partial

import comfy.k_diffusion.sampling as k_diffusion
import comfy.samplers
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from training import dataset, low_rank, patch, sampled, tiny, unet
from training.loop import Losses, Settings, Stage, load_average
from training.place import Place

SETTINGS = Settings(steps=400, learning_rate=1e-3, average=0.98)
RANK = 8
BATCH = 16
COUNT = 768  # pictures to learn from
CHUNK = 64
STEPS, SMALLER = 4, 4  # steps of the workflow, and the teacher's in each of them
SCHEDULER = "sgm_uniform"  # of the workflow
GUIDANCE = 5.0


def train(place: Place) -> None:
    """Trains the LoRA."""
    drawn, tokens = teacher(place)
    modules = adapted(place)
    sigmas = schedule(modules["model"], STEPS)

    def loss(rng: np.random.Generator) -> Losses:
        chosen, step = rng.integers(len(drawn), size=BATCH), rng.integers(STEPS, size=BATCH)
        before, after = (place_latents(place, drawn[chosen, which]) for which in (step, step + 1))
        sigma, share = sigmas[step].to(place.device), (sigmas[step + 1] / sigmas[step]).to(place.device)
        wanted = (after - share[:, None, None, None] * before) / (1 - share[:, None, None, None])
        with place.autocast():
            chosen_tokens = torch.from_numpy(tokens[:, chosen].astype(np.int64)).to(place.device)
            text = tiny.encode_text(modules["text"], chosen_tokens)
            error = (unet.denoise(modules["model"], before, sigma, text) - wanted).square().mean((1, 2, 3))
        return {f"step {each + 1}": error[torch.from_numpy(step == each)].sum() / BATCH for each in range(STEPS)}

    Stage("turbo", place.state, {"lora": modules["lora"]}, place.settings(SETTINGS), loss, place.seed).run()


def adapted(place: Place) -> dict[str, nn.Module]:
    """Returns the frozen base with transparency patch and a new LoRA attached, and the LoRA as `lora`."""
    modules = patch.trained_patched(place)
    return {**modules, "lora": low_rank.attach(modules["model"], RANK)}


def trained(place: Place) -> nn.ModuleDict:
    """Returns the LoRA that the stage has trained."""
    lora = adapted(place)["lora"]
    load_average(place.state / "turbo.pt", {"lora": lora})
    return lora


def schedule(model: nn.Module, steps: int) -> torch.Tensor:
    """Returns the noise levels of the workflow's scheduler, [steps + 1]; the last is zero."""
    return comfy.samplers.calculate_sigmas(model.model_sampling, SCHEDULER, steps)


def teacher(place: Place) -> tuple[dataset.Floats, dataset.Indices]:
    """Returns pictures at each noise level of the workflow, and their prompts; draws them first if need be.

    Returns:
        Float16 [COUNT, STEPS + 1, 4, 16, 16], from noise to picture, and int64 [2, COUNT, 77].
    """
    paths = [place.state / "drawn" / f"turbo_{name}.npy" for name in ("latents", "tokens")]
    if not all(path.exists() for path in paths):
        modules, prompts = patch.trained_patched(place), patch.latents(place)
        rng = np.random.default_rng(place.seed)
        torch.manual_seed(place.seed)
        chunks = []
        for _ in tqdm(range(COUNT // CHUNK), desc="drawing with guidance"):
            tokens = prompts.draw(CHUNK, rng).tokens
            chunks.append((_draw(modules, tokens), tokens.cpu().numpy()))
        dataset.write(paths[0], np.concatenate([latents for latents, _ in chunks]))
        dataset.write(paths[1], np.concatenate([tokens for _, tokens in chunks], axis=1))
    latents, tokens = map(np.load, paths)
    return latents, tokens


@torch.inference_mode()
def _draw(modules: dict[str, nn.Module], tokens: torch.Tensor) -> dataset.Floats:
    """Returns what a deterministic sampler passes through, float16 [batch, STEPS + 1, 4, 16, 16]."""
    sigmas = schedule(modules["model"], STEPS * SMALLER).to(tokens.device)
    seen: list[torch.Tensor] = []

    def keep(state: dict[str, torch.Tensor]) -> None:
        if state["i"] % SMALLER == 0:
            seen.append(state["x"])

    noise = torch.randn(tokens.shape[1], 4, 16, 16, device=tokens.device) * torch.sqrt(1 + sigmas[0] ** 2)
    denoise = sampled.guided(modules, tokens, torch.full((len(noise),), GUIDANCE, device=tokens.device))
    sample = partial(k_diffusion.sample_dpmpp_2m, extra_args={}, callback=keep, disable=True)
    seen.append(sample(denoise, noise, sigmas))
    return torch.stack(seen, dim=1).cpu().numpy().astype(np.float16)


def place_latents(place: Place, latents: dataset.Floats) -> torch.Tensor:
    return torch.from_numpy(latents.astype(np.float32)).to(place.device)
