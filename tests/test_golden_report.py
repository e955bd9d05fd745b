"""What scripts/golden shows: one HTML file that a person can look at."""

import importlib.util
import io
import re
import sys
from pathlib import Path

import golden_pictures as golden
import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "tools" / "golden.py"
CASE = golden.Case("a_case", {"prompt": "<script>alert(1)</script>", "seed": 1})


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("golden_report", SCRIPT)
    path = list(sys.path)
    module = sys.modules["golden_report"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    del sys.modules["golden_report"]


def png(fill, size=(4, 2)):
    buffer = io.BytesIO()
    Image.new("RGBA", size, fill).save(buffer, "PNG")
    return buffer.getvalue()


def outcome(report, **changed):
    known = {"case": CASE, "got": png("red"), "expected": png("red"), "same": True, "words": "alpha: mean 0.000"}
    return report.Outcome(**{**known, **changed})


def test_the_page_is_self_contained(report):
    """It contains the pictures, has no links or scripts, and shows any prompt as text."""
    page = report.page([outcome(report)], "tiny")
    assert page.count('src="data:image/png;base64,') == 5
    assert not re.search(r"https?:|<link|<script", page)
    assert "&lt;script&gt;" in page
    assert "1 of 1 pictures are the same, profile tiny" in page


def test_what_differs_comes_first(report):
    """The differing pictures come first, with their difference amplified."""
    different = outcome(report, got=png("blue"), same=False, words="colour: mean 170.000")
    page = report.page([outcome(report), different], "tiny")
    assert page.index('class="different"') < page.index('class="same"')
    assert "1 of 2 pictures are the same" in page


@pytest.mark.parametrize(
    "changed",
    [{"got": None}, {"expected": None}, {"got": png("red", (3, 3))}],
    ids=["job failed", "nothing stored", "other size"],
)
def test_missing_pictures_are_shown_as_missing(report, changed):
    """A failed job, a case without a stored picture and a picture of another size have a row, too."""
    row = report.row(outcome(report, same=False, **changed))
    assert "<i>none</i>" in row
    assert 'class="different"' in row


def test_the_difference_shows_small_steps(report):
    """A difference of 2/255 is shown as 16/255."""
    apart = report.difference(outcome(report, got=png((255, 0, 0, 253))))
    with Image.open(io.BytesIO(apart)) as picture:
        assert np.asarray(picture).max() == 2 * report.AMPLIFIED
    assert report.difference(outcome(report, got=None)) is None


def test_a_picture_without_alpha_is_rejected():
    """An RGB picture is rejected, even if its colours are right."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 2)).save(buffer, "PNG")
    with pytest.raises(ValueError, match="picture is RGB, expected RGBA"):
        golden.pixels(buffer.getvalue())
