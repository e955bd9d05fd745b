"""How good the tiny model is: 200 pictures through the stored workflow, with the patch and without it, judged.

Also draws the kinds that it learned later, in each colour, and things that it has not learned.

.venv/bin/python benchmarks/tiny_quality.py [--count 200] [--first SEED] [--out FOLDER] [--sheet PNG [--before FOLDER]]

Needs `scripts/setup --dev --training`. Pictures that the folder has already are not drawn again.
"""

import argparse
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from handler.comfyui.process import ComfyProcess  # noqa: E402
from handler.deadline import Deadline  # noqa: E402
from handler.job import profiles  # noqa: E402
from handler.settings import Settings  # noqa: E402
from training import prompts, sprites  # noqa: E402

OUTLINED = ("star", "heart", "moon", "balloon", "bell", "mushroom")  # kinds with one hard outline
PATCH_NODE = "Transparency Patch"
SIZE = 128
BORDER = 2  # pixels
UNKNOWN_PROMPTS = tuple(
    f"{article} {thing}"
    for thing in ("bear", "horse", "guitar", "bicycle", "dragon", "robot", "sandwich", "violin", "castle", "sneaker")
    for article in ("a brown", "a red", "a", "two of them next to each other,")
)
FIRST_KINDS = 24  # kinds that are added later must not change what a seed stands for
SHEET = 32  # pictures
COLUMNS = 8  # of pictures, or of pairs
LABEL = 32  # pixels
TRANSPARENT = 0.05
OPAQUE = 0.9
OBJECT = 0.1

Rgba = npt.NDArray[np.float32]
Alpha = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A request: a prompt that names a kind and a colour, and a seed."""

    prompt: str
    kind: str
    colour: str
    seed: int


def main() -> int:
    """Draws, judges and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--out", type=Path, default=ROOT / ".training" / "quality")
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet of the first pictures")
    parser.add_argument("--before", type=Path, help="folder with the same pictures of other weights, for the sheet")
    options = parser.parse_args()
    cases = [nth_case(seed) for seed in range(options.first, options.first + options.count)]
    later = [case(seed, *pair) for seed, pair in enumerate(product(list(sprites.KINDS)[FIRST_KINDS:], sprites.COLOURS))]
    unknown = [Case(prompt, "", "", seed) for seed, prompt in enumerate(UNKNOWN_PROMPTS)]
    folders = {"with the patch": options.out / "with", "without": options.out / "without"}
    console = Console(highlight=False)
    with Progress(console=Console(stderr=True)) as bars, ThreadPoolExecutor() as pool:
        drawn = {
            name: pool.submit(draw, cases, folder, name == "with the patch", bars) for name, folder in folders.items()
        }
        paths = {name: future.result() for name, future in drawn.items()}
        new = draw(later, options.out / "later", True, bars)
        stray = draw(unknown, options.out / "unknown", True, bars)
    table = Table("", *paths, box=None)
    judged = judge([*folders.values(), options.out / "later"])
    *kinds, new_kinds = judged["kinds"]
    columns = {
        name: {**measure(cases, pictures, found), **accuracies(judged)}
        for (name, pictures), found in zip(paths.items(), kinds, strict=True)
    }
    for row in columns["without"]:
        table.add_row(row, *(columns[name][row] for name in paths))
    console.print(table)
    console.print(f"later kinds, {len(later)} pictures:", shares(later, new, new_kinds))
    console.print(f"out-of-domain prompts that are transparent: {share_transparent(stray):.1%} of {len(stray)}")
    if options.sheet:
        sheet(cases, paths["with the patch"], options.before).save(options.sheet)
    return 0


def nth_case(seed: int) -> Case:
    """Returns a case; kinds and colours take turns."""
    kinds, colours = list(sprites.KINDS)[:FIRST_KINDS], list(sprites.COLOURS)
    return case(seed, kinds[seed % len(kinds)], colours[(seed + seed // len(kinds)) % len(colours)])


def case(seed: int, kind: str, colour: str) -> Case:
    """Returns a case whose phrasing depends on the seed."""
    return Case(prompts.plain(kind, colour, np.random.default_rng(seed)), kind, colour, seed)


def draw(cases: list[Case], folder: Path, patched: bool, bars: Progress) -> list[Path]:
    """Returns the pictures of the cases; draws those that the folder does not have, with its own ComfyUI."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings(profile="tiny", device="cpu", log_level="ERROR")
    workflow = profiles.load(settings)
    patch = next(node for node, title in workflow.titles.items() if title == PATCH_NODE)
    paths = [folder / f"{case.seed:04}.png" for case in cases]
    comfyui = ComfyProcess(settings)
    try:
        for case, path in bars.track(list(zip(cases, paths, strict=True)), description=folder.name):
            if path.exists():
                continue
            deadline = Deadline(240)
            graph = workflow.render({"prompt": case.prompt, "seed": case.seed, "width": SIZE, "height": SIZE})
            if not patched:
                graph[patch]["inputs"]["weight"] = 0.0
            png, _ = comfyui.client(deadline).run(graph, workflow.output_node, deadline).result()
            part = path.with_suffix(".part")
            part.write_bytes(png)
            part.replace(path)
    finally:
        comfyui.stop()
    return paths


def sheet(cases: list[Case], pictures: list[Path], before: Path | None = None) -> Image.Image:
    """Returns the first pictures over a checkerboard, in rows, each with its prompt.

    Args:
        cases: what the pictures show.
        pictures: RGBA files.
        before: folder with files of the same names, drawn with other weights; each is placed left of its counterpart.
    """
    names = {"before": before, "after": pictures[0].parent} if before else {"": pictures[0].parent}
    columns = COLUMNS // len(names)
    header, cell = LABEL // 2 * (len(names) - 1), SIZE + LABEL
    page = Image.new("RGB", (COLUMNS * SIZE, header + -(-SHEET // columns) * cell), "white")
    text = partial(ImageDraw.Draw(page).text, fill="black", anchor="ma", align="center")
    for index, (case, path) in enumerate(list(zip(cases, pictures, strict=True))[:SHEET]):
        left, top = index % columns * len(names) * SIZE, header + index // columns * cell
        for name, folder in names.items():
            page.paste(checkerboard(), (left, top))
            with Image.open(folder / path.name).convert("RGBA") as picture:
                page.paste(picture, (left, top), picture)
            if index < columns:
                text((left + SIZE // 2, 2), name)
            left += SIZE
        prompt = textwrap.fill(case.prompt, len(names) * SIZE // 6, max_lines=2)
        text((left - len(names) * SIZE // 2, top + SIZE + 3), prompt)
    return page


def checkerboard() -> Image.Image:
    """Returns a checkerboard, which shows through transparent areas."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] // 8
    return Image.fromarray(np.where((x + y) % 2, 205, 250).astype(np.uint8))


def judge(folders: list[Path]) -> dict[str, Any]:
    """Returns the results of training/judge.py for all pictures of these folders."""
    python = ROOT / ".training/venv/bin/python"
    command = [python, "-m", "training", "judge", "--pictures", *folders]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def measure(cases: list[Case], pictures: list[Path], kinds: list[str]) -> dict[str, str]:
    """Returns the rows of the table that pictures answer."""
    rgba = [np.asarray(Image.open(path), np.float32) / 255 for path in pictures]
    soft = [picture for picture, case in zip(rgba, cases, strict=True) if case.kind in sprites.SOFT]
    hard = [picture for picture, case in zip(rgba, cases, strict=True) if case.kind in OUTLINED]
    return {
        **shares(cases, pictures, kinds),
        "steepness of outlines": f"{np.nanmean([steepness(picture[..., 3]) for picture in hard]):.3f}",
        "width of outlines, in pixels": f"{np.nanmean([outline_width(picture[..., 3]) for picture in hard]):.2f}",
        "soft kinds that are soft": share(soft, soft, lambda picture, _: softness(picture) >= 0.1),
        "soft pixels of soft kinds": f"{np.mean([softness(picture) for picture in soft]):.0%}",
    }


def shares(cases: list[Case], pictures: list[Path], kinds: list[str]) -> dict[str, str]:
    """Returns the rows that apply to all kinds."""
    rgba = [np.asarray(Image.open(path), np.float32) / 255 for path in pictures]
    return {
        "named colour": share(rgba, cases, lambda picture, case: colour_of(picture) == case.colour),
        "named kind": share(kinds, cases, lambda kind, case: kind == case.kind),
        "transparent border": share(rgba, cases, lambda picture, _: has_transparent_border(picture)),
    }


def accuracies(judged: dict[str, Any]) -> dict[str, str]:
    """Returns the rows about the accuracy of the judge itself, and the decoder's error."""
    accuracy = judged["classifier_accuracy"]
    return {
        "classifier right, held-out sprites": f"{accuracy['transparent']:.1%}",
        "classifier right, over backgrounds": f"{accuracy['opaque']:.1%}",
        "alpha error of held-out sprites": f"{judged['alpha_error']:.4f}",
    }


def share(items: list[Any], others: list[Any], holds: Callable[[Any, Any], bool]) -> str:
    """Returns in how many of the pairs it holds."""
    held = sum(holds(item, other) for item, other in zip(items, others, strict=True))
    return f"{held / len(items):.1%}"


def colour_of(picture: Rgba) -> str:
    """Returns the named colour that is nearest to the median of the opaque pixels.

    Of a picture that has hardly any, smoke for one, the more opaque half counts.
    """
    alpha = picture[..., 3]
    seen = alpha >= OPAQUE
    if seen.mean() < 0.02:
        seen = alpha >= 0.5 * alpha.max()
    median = np.median(picture[seen][:, :3], axis=0) * 255
    return min(sprites.COLOURS, key=lambda name: float(np.square(median - sprites.COLOURS[name]).sum()))


def has_transparent_border(picture: Rgba) -> bool:
    """Returns whether alpha is under TRANSPARENT in 95 % of the outermost pixels."""
    inside = np.zeros(picture.shape[:2], bool)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    return bool((picture[..., 3][~inside] < TRANSPARENT).mean() >= 0.95)


def share_transparent(pictures: list[Path]) -> float:
    """Returns how many of the pictures have an object and a transparent border."""
    rgba = [np.asarray(Image.open(path), np.float32) / 255 for path in pictures]
    good = [has_transparent_border(picture) and bool(picture[..., 3].max() > OPAQUE) for picture in rgba]
    return float(np.mean(good))


def steepness(alpha: Alpha) -> float:
    """Returns the mean gradient of alpha, per pixel, along its outline; NaN if there is none.

    Drawn sprites have 0.49. It hardly tells sharp outlines from sharper ones, because `np.gradient` looks at the pixels
    before and after: if alpha jumps from 0 to 1, it is 0.58 on these outlines. `outline_width` does.
    """
    outline = outline_of(alpha)
    down, right = np.gradient(alpha)
    return float(np.hypot(down, right)[outline].mean()) if outline.any() else float("nan")


def outline_width(alpha: Alpha) -> float:
    """Returns the width of a hard outline, in pixels; NaN if there is none. Drawn sprites have 0.9.

    It is the number of pixels that are neither transparent nor opaque, for each pixel of the outline's length.
    """
    outline = outline_of(alpha)
    between = (alpha > OBJECT) & (alpha < OPAQUE)
    return float(between.sum() / outline.sum()) if outline.any() else float("nan")


def outline_of(alpha: Alpha) -> npt.NDArray[np.bool_]:
    """Returns each pixel with alpha of 0.5 or more that has a neighbour with less, or is at the edge of the picture."""
    inside = np.pad(alpha >= 0.5, 1, constant_values=False)
    core = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return inside[1:-1, 1:-1] & ~core


def softness(picture: Rgba) -> float:
    """Returns the share of an object's pixels whose alpha is between 0.1 and 0.9."""
    alpha = picture[..., 3]
    return float(((alpha > OBJECT) & (alpha < OPAQUE)).sum() / max(1, (alpha > OBJECT).sum()))


if __name__ == "__main__":
    sys.exit(main())
