"""What the documents list is what the code has."""

import re
from pathlib import Path

from handler.errors import GenerationError, RequestRefused
from handler.settings import Settings

ROOT = Path(__file__).parents[1]


def first_column(document):
    """Returns the names in backticks that begin the rows of a document's table."""
    return re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / document).read_text("utf-8"), re.MULTILINE)


def test_every_error_code_is_documented():
    """docs/errors.md has one row for each code, and no other."""
    assert sorted(first_column("errors.md")) == sorted(
        kind.code for base in (GenerationError, RequestRefused) for kind in base.__subclasses__()
    )


def test_every_setting_is_documented():
    """docs/settings.md has one row for each variable, besides the SDK's own, in the order of the code."""
    assert first_column("settings.md") == [*(name.upper() for name in Settings.model_fields), "RUNPOD_LOG_LEVEL"]


def test_links_between_documents_lead_somewhere():
    """Every relative link in a document names a file that is there."""
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
