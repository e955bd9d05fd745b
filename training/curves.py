"""The loss curves of the stages, as one picture."""

import csv
from pathlib import Path

import numpy as np

SMOOTHED = 9  # rows of the log


def draw(logs: list[Path], picture: Path) -> None:
    """Writes a PNG with one plot for each log; losses are on a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(logs), figsize=(3.6 * len(logs), 3), layout="constrained", squeeze=False)
    for axis, log in zip(axes[0], logs, strict=True):
        with log.open(newline="") as file:
            rows = list(csv.DictReader(file))
        steps = [int(row["step"]) for row in rows]
        for name in list(rows[0])[2:]:
            axis.plot(steps, smoothed([float(row[name]) for row in rows]), label=name, linewidth=1.2)
        axis.set(title=f"{log.stem}, {float(rows[-1]['seconds']) / 60:.0f} min", xlabel="step", yscale="log")
        axis.legend(fontsize="x-small")
        axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)


def smoothed(values: list[float]) -> list[float]:
    """Returns the median of each value and its neighbours, as many on both sides as there are."""
    half = SMOOTHED // 2
    return [float(np.median(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]
