"""Opaque backgrounds: plain, graded, patterned, and simple scenes, with their own colours."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float32]


def draw(size: int, rng: np.random.Generator) -> Picture:
    """Returns an opaque picture, float32 [size, size, 3] in [0, 1]."""
    kind = KINDS[int(rng.integers(len(KINDS)))]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    grain = rng.normal(0, rng.uniform(0, 0.012), (size, size, 1))
    return np.clip(kind(x, y, rng) + grain, 0, 1).astype(np.float32)


def _colour(rng: np.random.Generator) -> Picture:
    """Muted and pastel more often than loud, so that the sprite stands out."""
    saturation, value = rng.uniform(0.05, 0.65), rng.uniform(0.3, 0.97)
    hue = rng.uniform(0, 6) + np.array([0.0, 4.0, 2.0])
    pure = np.clip(np.abs(hue % 6 - 3) - 1, 0, 1)
    return (value * (1 - saturation * (1 - pure))).astype(np.float32)


def _mix(share: Picture, a: Picture, b: Picture) -> Picture:
    return a + (b - a) * share[..., None]


def _plain(x: Picture, y: Picture, rng: np.random.Generator) -> Picture:
    grey = np.full(3, rng.uniform(0.2, 0.9), np.float32)
    return np.broadcast_to(grey if rng.random() < 0.4 else _colour(rng), (*x.shape, 3))


def _gradient(x: Picture, y: Picture, rng: np.random.Generator) -> Picture:
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    along = (along - along.min()) / (np.ptp(along) + 1e-6)
    return _mix(along, _colour(rng), _colour(rng))


def _spotlight(x: Picture, y: Picture, rng: np.random.Generator) -> Picture:
    size = x.shape[0]
    far = np.hypot(x - rng.uniform(0.2, 0.8) * size, y - rng.uniform(0.2, 0.8) * size) / size
    return _mix(np.clip(far / rng.uniform(0.5, 1.0), 0, 1), _colour(rng), _colour(rng))


def _stripes(x: Picture, y: Picture, rng: np.random.Generator) -> Picture:
    angle, period = rng.uniform(0, np.pi), rng.uniform(16, 44)
    wave = np.cos((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    return _mix(np.clip(wave * period / 6 + 0.5, 0, 1), _colour(rng), _colour(rng))


def _checks(x: Picture, y: Picture, rng: np.random.Generator) -> Picture:
    period = rng.uniform(24, 60)
    shift = rng.uniform(0, period, 2)
    wave = np.sin((x + shift[0]) * 2 * np.pi / period) * np.sin((y + shift[1]) * 2 * np.pi / period)
    return _mix(np.clip(wave * period / 6 + 0.5, 0, 1), _colour(rng), _colour(rng))


def _dots(x: Picture, y: Picture, rng: np.random.Generator) -> Picture:
    period = rng.uniform(20, 48)
    u = (x + rng.uniform(0, period)) % period - period / 2
    v = (y + rng.uniform(0, period)) % period - period / 2
    inside = np.clip(period * rng.uniform(0.2, 0.36) - np.hypot(u, v) + 0.5, 0, 1)
    return _mix(inside, _colour(rng), _colour(rng))


def _landscape(x: Picture, y: Picture, rng: np.random.Generator) -> Picture:
    size = x.shape[0]
    sky = _mix(y / size, _colour(rng), _colour(rng))
    hill = size * (rng.uniform(0.45, 0.8) + 0.06 * np.sin(x / size * rng.uniform(3, 12) + rng.uniform(0, 6)))
    ground = _mix(y / size, _colour(rng), _colour(rng))
    below = np.clip(y - hill + 0.5, 0, 1)[..., None]
    return sky * (1 - below) + ground * below


def _room(x: Picture, y: Picture, rng: np.random.Generator) -> Picture:
    size = x.shape[0]
    edge = rng.uniform(0.55, 0.85) * size + (x - size / 2) * rng.uniform(-0.1, 0.1)
    shade = 1 - 0.25 * np.clip((edge - y) / size, 0, 1)
    wall = _colour(rng) * shade[..., None]
    table = _mix(np.clip((y - edge) / size * 2, 0, 1), _colour(rng), _colour(rng))
    below = np.clip(y - edge + 0.5, 0, 1)[..., None]
    return wall * (1 - below) + table * below


def _blur(x: Picture, y: Picture, rng: np.random.Generator) -> Picture:
    """Patches of light, as behind a lens."""
    size = x.shape[0]
    picture = np.broadcast_to(_colour(rng), (*x.shape, 3)).copy()
    for _ in range(6):
        radius = rng.uniform(0.1, 0.35) * size
        far = ((x - rng.uniform(0, size)) ** 2 + (y - rng.uniform(0, size)) ** 2) / radius**2
        picture += (_colour(rng) - picture) * (rng.uniform(0.4, 0.9) * np.exp(-far))[..., None]
    return picture


KINDS: tuple[Callable[[Picture, Picture, np.random.Generator], Picture], ...] = (
    _plain,
    _gradient,
    _spotlight,
    _stripes,
    _checks,
    _dots,
    _landscape,
    _room,
    _blur,
)
