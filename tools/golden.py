"""Draws the golden pictures, compares them with the stored ones, and writes one HTML file to look at."""

import argparse
import base64
import html
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import golden_pictures as golden  # noqa: E402

from handler.comfyui.process import ComfyProcess  # noqa: E402
from handler.deadline import Deadline  # noqa: E402
from handler.errors import GenerationError  # noqa: E402
from handler.job import profiles  # noqa: E402
from handler.job.generate import Generator  # noqa: E402
from handler.settings import Settings  # noqa: E402
from handler.workflow.wording import shown as shown_value  # noqa: E402

AMPLIFIED = 8
TIMEOUT_S = 600.0  # for one picture
PAGE = Template(Path(__file__).with_suffix(".html").read_text("utf-8"))

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Outcome:
    """The result of one case.

    Attributes:
        got: the new picture; None if the job failed.
        expected: the stored picture; None if there is none yet.
        words: how they compare, for people.
    """

    case: golden.Case
    got: bytes | None
    expected: bytes | None
    same: bool
    words: str


def main() -> int:
    """Returns the exit status: 0 if all pictures are the same, or have been updated."""
    parser = argparse.ArgumentParser(prog="scripts/golden", description=__doc__)
    parser.add_argument("--update", action="store_true", help="accept the new pictures")
    parser.add_argument("--profile", default=golden.STORED_PROFILE, help="tiny, or sdxl on a machine with its weights")
    parser.add_argument("--report", type=Path, default=ROOT / "golden.html", help="the HTML file to write")
    options = parser.parse_args()
    outcomes = draw(options.profile)
    if options.update:
        for outcome in outcomes:
            if outcome.got is not None and not outcome.same:
                write(outcome.case.expected(options.profile), outcome.got)
    write(options.report, page(outcomes, options.profile).encode())
    for outcome in outcomes:
        console.print(f"{'same     ' if outcome.same else 'DIFFERENT'} {outcome.case.name:24} {outcome.words}")
    console.print(f"report: {os.path.relpath(options.report)}")
    failed = [outcome for outcome in outcomes if (outcome.got is None if options.update else not outcome.same)]
    return 1 if failed else 0


def draw(profile: str) -> list[Outcome]:
    """Returns the outcomes of all cases on one ComfyUI."""
    settings = Settings(profile=profile, log_level="ERROR", warm_up="off")
    try:
        workflow = profiles.load(settings)
        tiny = profiles.load(settings.model_copy(update={"profile": golden.STORED_PROFILE}))
        scale = default_width(workflow) // default_width(tiny)
        with ComfyProcess(settings) as comfyui, Progress(console=Console(stderr=True), transient=True) as bars:
            generator = Generator(workflow, comfyui, settings)
            return [
                compare(generator, case, profile, scale)
                for case in bars.track(golden.cases(), description="golden pictures")
            ]
    except GenerationError as exc:
        console.print(f"golden: {exc}", markup=False)
        raise SystemExit(1) from exc


def compare(generator: Generator, case: golden.Case, profile: str, scale: int) -> Outcome:
    """Returns the outcome of one case."""
    path = case.expected(profile)
    expected = path.read_bytes() if path.exists() else None
    try:
        got = generator.generate(generator.parse(case.sized_for(scale)), Deadline(TIMEOUT_S)).encoded
        if expected is None:
            return Outcome(case, got, None, same=False, words="no stored picture to compare with")
        pictures = golden.pixels(expected), golden.pixels(got)
        words = "; ".join(
            f"{name}: mean {found.mean:.3f}, largest {found.largest}, far apart {found.far_share:.2%}"
            for name, found in golden.differences(*pictures).items()
        )
        return Outcome(case, got, expected, golden.are_same(*pictures), words)
    except (GenerationError, ValueError) as exc:
        return Outcome(case, None, expected, same=False, words=str(exc))


def default_width(workflow: profiles.Workflow) -> int:
    """Returns the width of a picture if the request does not set it."""
    return workflow.size(workflow.render({}))[0]


def page(outcomes: list[Outcome], profile: str) -> str:
    """Returns the report: a row for each case, those that differ first."""
    rows = "\n".join(row(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.same))
    same = sum(outcome.same for outcome in outcomes)
    summary = f"{same} of {len(outcomes)} pictures are the same, profile {profile}"
    tolerance = golden.TOLERANCE
    rule = (
        f"Two pictures are the same if their mean difference is at most {tolerance.mean}/255 and at most "
        f"{tolerance.far_share:.1%} of the samples differ by more than {tolerance.far}/255, in alpha and in colour "
        f"multiplied by alpha."
    )
    return PAGE.substitute(summary=html.escape(summary), rule=html.escape(rule), rows=rows, amplified=AMPLIFIED)


def row(outcome: Outcome) -> str:
    """Returns a case's part of the page."""
    pictures = [outcome.expected, outcome.got, difference(outcome)]
    alphas = [alpha(picture) for picture in pictures[:2]]
    cells = "".join(f"<td>{shown(picture)}</td>" for picture in [*pictures, *alphas])
    request = html.escape(", ".join(f"{name}: {shown_value(value)}" for name, value in outcome.case.request.items()))
    verdict = "same" if outcome.same else "different"
    return (
        f'<tr class="{verdict}"><th scope="row">{html.escape(outcome.case.name)}<b>{verdict}</b>'
        f"<small>{request}</small><small>{html.escape(outcome.words)}</small></th>{cells}</tr>"
    )


def difference(outcome: Outcome) -> bytes | None:
    """Returns the amplified difference of premultiplied colour and alpha, over black."""
    if outcome.expected is None or outcome.got is None:
        return None
    expected, got = golden.pixels(outcome.expected), golden.pixels(outcome.got)
    if expected.shape != got.shape:
        return None
    apart = np.abs(golden.premultiplied(expected) - golden.premultiplied(got))
    apart = np.maximum(apart, np.abs(expected[..., 3:].astype(float) - got[..., 3:]))
    return png(np.clip(apart * AMPLIFIED, 0, 255).astype(np.uint8))


def alpha(picture: bytes | None) -> bytes | None:
    """Returns a picture's alpha as shades of grey."""
    return None if picture is None else png(np.ascontiguousarray(golden.pixels(picture)[..., 3]))


def shown(picture: bytes | None) -> str:
    """Returns an HTML image with the picture in it."""
    if picture is None:
        return "<i>none</i>"
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'


def png(pixels: golden.Pixels) -> bytes:
    """Returns the pixels as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, contents: bytes) -> None:
    """Writes a file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(contents)
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
