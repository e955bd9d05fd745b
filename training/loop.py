"""A training loop that can be stopped at any moment and continues from its last saved state."""

import csv
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

SAVE_EVERY_S = 120.0
LOG_EVERY = 25
WARM_UP = 100
DECAY_SHARE = 0.3  # of the steps, at the end

Losses = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Settings:
    """How long and how fast a stage learns.

    Attributes:
        steps: number of batches.
        learning_rate: the maximum. It rises over the first WARM_UP steps, stays, and falls to zero as half a
            cosine over the last DECAY_SHARE of the steps. So `steps` may be changed until the fall begins.
        average: decay of the running average of the weights, which a stage passes on.
        weight_decay: AdamW's.
    """

    steps: int
    learning_rate: float
    average: float = 0.999
    weight_decay: float = 0.0


class Stage:
    """Trains modules and keeps `<name>.pt` (state) and `<name>.csv` (losses) in a folder.

    A stage without a state starts from the weights in `<name>.start.pt`, if that file exists.

    Args:
        modules: what is trained and saved, by name.
        loss: returns the losses of a batch by name; the generator draws the batch. Their sum is minimised.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        modules: Mapping[str, nn.Module],
        settings: Settings,
        loss: Callable[[np.random.Generator], Losses],
        seed: int,
    ) -> None:
        self._name = name
        self._state = folder / f"{name}.pt"
        self._log = folder / f"{name}.csv"
        self._modules = nn.ModuleDict(modules)
        self._settings = settings
        self._loss = loss
        self._seed = seed
        parameters = [parameter for parameter in self._modules.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(
            parameters, settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
        )
        self._parameters = parameters
        self._average = AveragedModel(self._modules, multi_avg_fn=get_ema_multi_avg_fn(settings.average))
        self._step = 0
        self._seconds = 0.0
        self._rows: list[dict[str, float]] = []

    def run(self) -> None:
        """Trains to the last step; the weights are then the running average."""
        self._resume()
        saved = time.monotonic()
        sums: dict[str, float] = {}
        with tqdm(total=self._settings.steps, initial=self._step, desc=self._name, smoothing=0.05) as bar:
            while self._step < self._settings.steps:
                started = time.monotonic()
                for name, value in self._learn().items():
                    sums[name] = sums.get(name, 0.0) + value / LOG_EVERY
                self._step += 1
                self._seconds += time.monotonic() - started
                bar.update()
                if self._step % LOG_EVERY:
                    continue
                rounded = {name: round(value, 6) for name, value in sums.items()}
                self._rows.append({"step": self._step, "seconds": round(self._seconds, 1), **rounded})
                bar.set_postfix({name: f"{value:.4f}" for name, value in sums.items()})
                sums = {}
                if time.monotonic() - saved > SAVE_EVERY_S:
                    self._save()
                    saved = time.monotonic()
        self._save()
        averaged = self._average.module.state_dict()
        self._modules.load_state_dict(averaged)

    def _learn(self) -> dict[str, float]:
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * self._pace()
        rng = np.random.default_rng([self._seed, self._step])
        torch.manual_seed(int(rng.integers(2**62)))
        # On a CPU the gradients of PyTorch 2.10's flash attention are slow: 0.31 s a step with it, 0.21 s without.
        with sdpa_kernel([SDPBackend.MATH]):
            losses = self._loss(rng)
            total = torch.stack(list(losses.values())).sum()
            if not math.isfinite(total.item()):
                raise FloatingPointError(f"{self._name}: the loss of step {self._step} is {total.item()}")
            self._optimizer.zero_grad(set_to_none=True)
            total.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._average.update_parameters(self._modules)
        return {name: value.item() for name, value in losses.items()}

    def _pace(self) -> float:
        falling = max(0.0, 1 - (1 - self._step / self._settings.steps) / DECAY_SHARE)
        return min(1.0, (self._step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * falling))

    def _resume(self) -> None:
        if not self._state.exists():
            if start_of(self._state).exists():
                load_average(self._state, self._modules)
            return
        state = torch.load(self._state, map_location="cpu", weights_only=True)
        self._modules.load_state_dict(state["modules"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._seconds, self._rows = state["step"], state["seconds"], state["rows"]

    def _save(self) -> None:
        part = self._state.with_suffix(".part")
        torch.save(
            {
                "modules": self._modules.state_dict(),
                "average": self._average.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "step": self._step,
                "seconds": self._seconds,
                "rows": self._rows,
            },
            part,
        )
        part.replace(self._state)
        with self._log.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._rows[0] if self._rows else ["step"])
            writer.writeheader()
            writer.writerows(self._rows)


def start_of(state: Path) -> Path:
    """Returns the file with the weights that a stage starts from, for the file of its state."""
    return state.with_suffix(".start.pt")


def save_start(state: Path, modules: Mapping[str, nn.Module]) -> None:
    """Writes the modules as the weights that the stage of this state starts from."""
    torch.save({"average": AveragedModel(nn.ModuleDict(modules)).state_dict()}, start_of(state))


def load_average(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Loads the averaged weights of a stage, or those that it starts from if it has not run.

    Args:
        path: the state of the stage.
        modules: all modules of the stage, or some of them.

    Raises:
        FileNotFoundError: there are neither.
    """
    found = path if path.exists() else start_of(path)
    if not found.exists():
        raise FileNotFoundError(f"{path.name} is missing: run stage {path.stem} first, or use --from-models")
    state = torch.load(found, map_location="cpu", weights_only=True)
    averaged = {name.removeprefix("module."): value for name, value in state["average"].items()}
    wanted = {name: value for name, value in averaged.items() if name.split(".")[0] in modules}
    nn.ModuleDict(modules).load_state_dict(wanted)
