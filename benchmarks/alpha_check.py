"""How often the alpha check is wrong: 500 jobs with the patch, the same 500 without it, and made-up alphas.

.venv/bin/python benchmarks/alpha_check.py [--recorded] [--sheet PNG]

Needs `scripts/setup --dev`. Pictures are stored in .training/alpha_check/<weights>/, and existing ones are not drawn
again. Their statistics are stored in benchmarks/alpha_check.csv. With --recorded that file is judged and nothing is
drawn, to try other thresholds.
"""

import argparse
import csv
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import tiny_quality  # noqa: E402

from handler.comfyui.process import ComfyProcess  # noqa: E402
from handler.deadline import Deadline  # noqa: E402
from handler.job import profiles  # noqa: E402
from handler.job.alpha_check import Alpha, fault  # noqa: E402
from handler.settings import Settings  # noqa: E402
from handler.workflow.workflow import Workflow  # noqa: E402
from training import sprites  # noqa: E402

PICTURES = ROOT / ".training" / "alpha_check"
STATISTICS = ROOT / "benchmarks" / "alpha_check.csv"
PATCH_NODE = "Transparency Patch"
SIDES = ("with", "without")
NAMED = 400  # cases that name a kind and a colour
SEEDS = range(27, 32)  # of each foreign prompt
FOREIGN = (
    "a brown bear",
    "a city at night",
    "a wooden chair",
    "portrait of an old man with a beard",
    "a glass of water",
    "bubbles",
    "a tattered lace curtain",
    "a dragon breathing fire",
    "a mountain landscape",
    "seamless brick wall texture",
    "a bowl of ramen, steam",
    "a red sports car",
    "spider web",
    "the letter A",
    "rain",
    "a girl with long flowing hair",
    "abstract",
    "a logo of a coffee shop",
    "x",
    "full frame photograph of grass",
)
SIZES = ((64, 64), (64, 192), (192, 128), (256, 256), (320, 192), (512, 512))
SIZE_WEIGHTS = (0.05, 0.05, 0.05, 0.03, 0.01, 0.01)
GUIDANCES = (1.0, 2.0, 8.0, 12.0)
CORPUS_SIZES = ((1024, 1024), (64, 64))
DIGITS = 5
CELL = 128  # pixels
LABEL = 16
COLUMNS = 10

Pixels = npt.NDArray[np.float32]  # alpha, (height, width), in [0, 1]


@dataclass(frozen=True)
class Case:
    """One job.

    Attributes:
        group: "hard kind", "soft kind" or "foreign prompt".
    """

    number: int
    group: str
    prompt: str
    seed: int
    width: int
    height: int
    guidance: float

    def values(self) -> dict[str, str | int | float]:
        """Returns the values of the request."""
        size = {"width": self.width, "height": self.height}
        return {"prompt": self.prompt, "seed": self.seed, "guidance_scale": self.guidance, **size}


@dataclass(frozen=True)
class Measured:
    """A picture and what the output node would report of it.

    Attributes:
        side: "with" or "without" the patch.
    """

    side: str
    case: Case
    alpha: Alpha

    @property
    def fault(self) -> str | None:
        """Why the check refuses it; None if it passes."""
        return fault(self.alpha, self.case.width, self.case.height)


def main() -> int:
    """Draws what is missing, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recorded", action="store_true", help="judge the recorded statistics, draw nothing")
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet of the pictures next to the thresholds")
    options = parser.parse_args()
    settings = Settings(profile="tiny", device="cpu", log_level="ERROR")
    workflow = profiles.read(settings)
    folder = PICTURES / weights(workflow, settings)
    if not options.recorded:
        draw(all_cases(), folder, workflow, settings)
        record([measured(folder, side, case) for case in all_cases() for side in SIDES])
    console = Console(highlight=False)
    found = recorded()
    console.print(table(found))
    console.print(corpus_table())
    if options.sheet:
        sheet(found, folder).quantize(192).save(options.sheet, optimize=True)
    return 0


def all_cases() -> list[Case]:
    """Returns 400 jobs that name one of 24 kinds and one of 12 colours, and 100 whose prompts name neither."""
    cases = []
    for number in range(NAMED):
        named = tiny_quality.nth_case(number)
        group = "soft kind" if named.kind in sprites.SOFT else "hard kind"
        cases.append(_varied(number, group, named.prompt, named.seed))
    for prompt in FOREIGN:
        for seed in SEEDS:
            # At the defaults: "a brown bear" with seed 29 was COMPLETED with a smallest alpha of 193/255.
            cases.append(Case(len(cases), "foreign prompt", prompt, seed, 128, 128, 5.0))
    return cases


def _varied(number: int, group: str, prompt: str, seed: int) -> Case:
    """Returns a case, one in five of another size than 128x128 and one in ten with other guidance than 5."""
    rng = np.random.default_rng([number, 15])
    sizes = (*SIZES, (128, 128))
    width, height = sizes[rng.choice(len(sizes), p=(*SIZE_WEIGHTS, 1 - sum(SIZE_WEIGHTS)))]
    guidance = float(rng.choice(GUIDANCES)) if rng.random() < 0.1 else 5.0
    return Case(number, group, prompt, seed, width, height, guidance)


def weights(workflow: Workflow, settings: Settings) -> str:
    """Returns a name for the model files' contents, so that pictures of other weights are not taken for theirs."""
    digest = hashlib.sha256()
    for file in workflow.models:
        digest.update((settings.models_dir / file.folder / file.name).read_bytes())
    return digest.hexdigest()[:8]


def path_of(folder: Path, side: str, case: Case) -> Path:
    """Returns where a picture is; `side` is "with" or "without"."""
    return folder / side / f"{case.number:03}.png"


def draw(cases: list[Case], folder: Path, workflow: Workflow, settings: Settings) -> None:
    """Draws the pictures that the folder lacks, with one ComfyUI."""
    patch = next(node for node, title in workflow.titles.items() if title == PATCH_NODE)
    wanted = [(case, side) for case in cases for side in SIDES if not path_of(folder, side, case).exists()]
    if not wanted:
        return
    for side in SIDES:
        (folder / side).mkdir(parents=True, exist_ok=True)
    with ComfyProcess(settings) as comfyui, Progress(console=Console(stderr=True)) as bars:
        for case, side in bars.track(wanted, description="drawing"):
            graph = workflow.render(case.values())
            graph[patch]["inputs"]["weight"] = float(side == "with")
            deadline = Deadline(600)
            png, _ = comfyui.client(deadline).run(graph, workflow.output_node, deadline).result()
            path = path_of(folder, side, case)
            part = path.with_suffix(".part")
            part.write_bytes(png)
            part.replace(path)


def measured(folder: Path, side: str, case: Case) -> Measured:
    """Returns a drawn picture's statistics."""
    with Image.open(path_of(folder, side, case)) as picture:
        pixels = np.asarray(picture, np.float32)[..., 3] / 255
    return Measured(side, case, statistics(pixels))


def statistics(alpha: Pixels) -> Alpha:
    """Returns the output node's report about such a picture (custom_nodes/layerdiffuse_alpha/png.py)."""
    border = np.ones(alpha.shape, bool)
    border[1:-1, 1:-1] = False
    values = {
        "transparent": (alpha < 0.02).mean(),
        "under_half": (alpha < 0.5).mean(),
        "opaque": (alpha > 0.98).mean(),
        "border_transparent": (alpha[border] < 0.05).mean(),
        "mean": alpha.mean(),
        "minimum": alpha.min(),
        "maximum": alpha.max(),
    }
    return Alpha(**{name: round(float(value), DIGITS) for name, value in values.items()})


def record(found: Sequence[Measured]) -> None:
    """Writes the statistics to STATISTICS."""
    with STATISTICS.open("w", newline="") as opened:
        rows = csv.DictWriter(opened, ["side", *(field.name for kind in (Case, Alpha) for field in fields(kind))])
        rows.writeheader()
        rows.writerows({"side": each.side, **asdict(each.case), **asdict(each.alpha)} for each in found)


def recorded() -> list[Measured]:
    """Returns the statistics in STATISTICS."""
    found = []
    with STATISTICS.open(newline="") as opened:
        for row in csv.DictReader(opened):
            case = Case(
                *(int(row["number"]), row["group"], row["prompt"], int(row["seed"])),
                *(int(row["width"]), int(row["height"]), float(row["guidance"])),
            )
            alpha = Alpha(**{field.name: float(row[field.name]) for field in fields(Alpha)})
            found.append(Measured(row["side"], case, alpha))
    return found


def table(found: Sequence[Measured]) -> Table:
    """Returns how many pictures pass, by group."""
    rows = Table("", *(f"{side} the patch: pass" for side in SIDES), box=None)
    groups = list(dict.fromkeys(each.case.group for each in found))
    for title, some in [*((group, [group]) for group in groups), ("all", groups)]:
        cells = []
        for side in SIDES:
            pictures = [each for each in found if each.side == side and each.case.group in some]
            cells.append(f"{sum(each.fault is None for each in pictures)} of {len(pictures)}")
        rows.add_row(title, *cells)
    return rows


def corpus(width: int, height: int) -> dict[str, tuple[Pixels, bool]]:
    """Returns made-up alphas by name, each with whether it should pass."""
    rng = np.random.default_rng(15)
    y, x = np.mgrid[0:height, 0:width] / min(width, height)
    smoke = 0.25 + 0.2 * np.sin(7 * x + 3 * np.sin(5 * y)) * np.sin(4 * y)
    opaque = np.ones((height, width))
    one_transparent, rim, outline, tiny = opaque.copy(), np.zeros_like(opaque), opaque.copy(), np.zeros_like(opaque)
    one_transparent[height // 2, width // 2] = 0
    rim[1:-1, 1:-1] = 1
    outline[1:-1, 1:-1] = 0
    tiny[height // 2 : height // 2 + 12, width // 2 : width // 2 + 12] = 1
    disc = np.clip(60 * (0.35 - np.hypot(x - 0.5, y - 0.5)), 0, 1)
    found = {
        **{f"veil at {level}": (np.full_like(opaque, level), False) for level in (0.9, 0.93, 0.95, 0.97)},
        "noisy veil at 0.95": (np.clip(rng.normal(0.95, 0.03, opaque.shape), 0, 1), False),
        "all 1": (opaque, False),
        "one transparent pixel": (one_transparent, False),
        "full-bleed texture": (1 - 0.04 * rng.random(opaque.shape), False),
        "transparent rim of one pixel": (rim, False),
        "all 0": (np.zeros_like(opaque), False),
        "all 0.04": (np.full_like(opaque, 0.04), False),
        "all 0.5": (np.full_like(opaque, 0.5), True),
        "all 0.7": (np.full_like(opaque, 0.7), True),
        "thin smoke over the whole frame": (smoke, True),
        "tiny object": (tiny, True),
        "outline of one pixel": (outline, True),
        "disc": (disc, True),
        "hole in an opaque picture": (1 - np.clip(60 * (0.1 - np.hypot(x - 0.5, y - 0.5)), 0, 1), True),
    }
    return {name: (alpha.astype(np.float32), passes) for name, (alpha, passes) in found.items()}


def corpus_table() -> Table:
    """Returns the check's verdict on the synthetic alphas, and the expected one."""
    rows = Table("made-up alpha", *(f"{width}x{height}" for width, height in CORPUS_SIZES), "expected", box=None)
    judged = [
        {name: fault(statistics(alpha), width, height) is None for name, (alpha, _) in corpus(width, height).items()}
        for width, height in CORPUS_SIZES
    ]
    for name, (_, passes) in corpus(*CORPUS_SIZES[0]).items():
        words = ["passes" if each else "refused" for each in (*(verdicts[name] for verdicts in judged), passes)]
        rows.add_row(name, *words)
    return rows


def sheet(found: Sequence[Measured], folder: Path) -> Image.Image:
    """Returns pictures over a checkerboard: all that are refused with the patch, those that just pass, all that pass
    without it, and the most transparent ones that are refused without it.
    """
    with_patch = sorted((each for each in found if each.side == "with"), key=lambda each: each.alpha.under_half)
    without = sorted((each for each in found if each.side == "without"), key=lambda each: -each.alpha.under_half)
    shown = [
        ("with the patch, refused", [each for each in with_patch if each.fault][: 2 * COLUMNS]),
        ("with the patch, just passed", [each for each in with_patch if not each.fault][:COLUMNS]),
        ("without the patch, passed", [each for each in without if not each.fault][: 2 * COLUMNS]),
        ("without the patch, just refused", [each for each in without if each.fault][:COLUMNS]),
    ]
    shown = [(title, some) for title, some in shown if some]
    rows = sum(-(-len(some) // COLUMNS) for _, some in shown)
    page = Image.new("RGB", (COLUMNS * CELL, rows * CELL + len(shown) * LABEL), "white")
    y, x = np.mgrid[0:CELL, 0:CELL] // 8
    checks = Image.fromarray(np.where((x + y) % 2, 205, 250).astype(np.uint8))
    top = 0
    for title, some in shown:
        ImageDraw.Draw(page).text((4, top + 2), title, "black")
        top += LABEL
        for index, each in enumerate(some):
            left, down = index % COLUMNS * CELL, top + index // COLUMNS * CELL
            page.paste(checks, (left, down))
            with Image.open(path_of(folder, each.side, each.case)) as picture:
                picture.thumbnail((CELL, CELL))
                page.paste(picture, (left, down), picture)
        top += -(-len(some) // COLUMNS) * CELL
    return page


if __name__ == "__main__":
    sys.exit(main())
