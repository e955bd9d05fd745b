"""Device, folders and seed of a training."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from training import dataset
from training.loop import Settings

SPRITES = 27 * 12 * 40
BACKGROUNDS = 2000


@dataclass(frozen=True)
class Place:
    """Settings that all stages share.

    Attributes:
        device: device of the modules.
        state: folder of the states and logs of the stages, and of drawn pictures.
        seed: of everything that is drawn, initialised or sampled.
        steps: number of steps of each stage, instead of its own.
    """

    device: torch.device
    state: Path
    seed: int
    steps: int | None = None

    def settings(self, usual: Settings) -> Settings:
        """Returns the settings of a stage."""
        return replace(usual, steps=self.steps) if self.steps else usual

    def sprites(
        self, width: int = 128, height: int = 128, count: int = SPRITES, margin: float = 0.0
    ) -> dataset.Sprites:
        """Returns the sprites to learn from."""
        return dataset.load_sprites(self.state / "drawn", "train", count, width, height, self.seed, margin)

    def held_out(self, count: int = 27 * 12) -> dataset.Sprites:
        """Returns sprites that no stage learns from."""
        return dataset.load_sprites(self.state / "drawn", "held_out", count, 128, 128, self.seed + 1)

    def backgrounds(self) -> dataset.Bytes:
        """Returns the backgrounds to learn from."""
        return dataset.load_backgrounds(self.state / "drawn", BACKGROUNDS, self.seed)

    def tensor(self, pictures: dataset.Floats) -> torch.Tensor:
        """Returns [n, channels, height, width] on the device, for pictures [n, height, width, channels]."""
        tensor = torch.from_numpy(np.ascontiguousarray(pictures, np.float32)).movedim(-1, 1)
        return tensor.to(self.device, memory_format=torch.channels_last)

    def autocast(self) -> AbstractContextManager[None]:
        """Returns a context in which products are bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16)
