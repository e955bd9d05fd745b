"""The documents name only what exists: links, headings, files, commands, options, settings and error codes."""

import calendar
import json
import re
from pathlib import Path

import pytest
import typer

from handler.cli.main import app
from handler.errors import GenerationError, InvalidInput
from handler.job import profiles
from handler.server.errors import RequestRejected
from handler.settings import Settings

ROOT = Path(__file__).parents[1]
PATTERNS = ("*.md", "docs/*.md", "*/README.md", "custom_nodes/*/README.md")
DOCUMENTS = sorted({path.relative_to(ROOT) for pattern in PATTERNS for path in ROOT.glob(pattern)})
FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
DOWNLOADED = "models/"  # documents also name files that the repository does not contain
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
IN_CODE = re.compile(r"`([^`\n]+)`")
OPTION = re.compile(r"--[a-z][\w-]*")
COMMAND_LINE = re.compile(r"\b(?:layerdiffuse-alpha|scripts/[a-z-]+)\b[^#&]*")
# The modules that define a script's options. Other scripts pass theirs to pytest, the SDK or ComfyUI.
DEFINED_IN = {
    "scripts/golden": "tools/golden.py",
    "scripts/image-test": "tools/image_test.py",
    "scripts/lock": "scripts/lock",
    "scripts/merge-patch": "tools/merge_patch.py",
    "scripts/setup": "installer/__main__.py",
    "scripts/train": "training/__main__.py",
}
COMMAND_OF = {"scripts/demo": ["generate"], "scripts/doctor": ["doctor"], "scripts/serve": ["serve"]}
OF_OTHER_PROGRAMS = {
    "FORWARDED_ALLOW_IPS",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS",
}


def read(document):
    return (ROOT / document).read_text("utf-8")


def snippets(document):
    """Returns the lines of a document's code blocks and its code in backticks."""
    text = read(document)
    blocks = CODE_BLOCK.findall(text)
    return [*(line for block in blocks for line in block.splitlines()), *IN_CODE.findall(CODE_BLOCK.sub("", text))]


def anchors(document):
    """Returns the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", read(document)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def first_column(document):
    """Returns the names in backticks that begin the rows of a document's tables."""
    return re.findall(r"^\| `(\w+)` \|", read(document), re.MULTILINE)


def options_of(program, words):
    """Returns the options of a program of ours; None if it passes them on.

    Args:
        words: what follows on the command line; the first ones may name a subcommand.
    """
    if program in DEFINED_IN:
        return set(OPTION.findall(read(DEFINED_IN[program])))
    if program != "layerdiffuse-alpha" and program not in COMMAND_OF:
        return None
    command = typer.main.get_command(app)
    for word in COMMAND_OF.get(program, words):
        command = getattr(command, "commands", {}).get(word, command)
    if command.ignore_unknown_options:
        return None
    return {"--help"}.union(*(parameter.opts for parameter in command.params))


def test_every_error_code_is_documented():
    """docs/errors.md has one row for each code, and no other."""
    assert sorted(first_column("docs/errors.md")) == sorted(
        kind.code for base in (GenerationError, RequestRejected) for kind in base.__subclasses__()
    )


def test_every_setting_is_documented():
    """docs/settings.md has one row for each variable, besides the SDK's own, in the order of the code."""
    assert first_column("docs/settings.md") == [*(name.upper() for name in Settings.model_fields), "RUNPOD_LOG_LEVEL"]


def test_every_field_is_documented():
    """docs/api.md names every field of a request and of its `info`."""
    params = json.loads(read("workflows/txt2img_alpha.params.json"))
    assert params["request"].keys() | params["info"].keys() <= set(IN_CODE.findall(read("docs/api.md")))


def test_every_document_is_in_the_index():
    """docs/README.md links to every file in docs/."""
    pages = {path.name for path in DOCUMENTS if path.parent.name == "docs"} - {"README.md"}
    assert pages <= set(re.findall(r"\]\((\w+\.md)\)", read("docs/README.md")))


def test_the_readme_is_short():
    """It has under 700 words; the rest belongs in docs/."""
    assert len(read("README.md").split()) < 700


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document):
    """A relative link names a file that exists, and a heading of it."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", CODE_BLOCK.sub("", read(document))):
        path, _, anchor = target.partition("#")
        linked = (ROOT / document).parent / path if path else ROOT / document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_named_files_exist(document):
    """Scripts, source files and folders of the repository that a document names exist."""
    path = re.compile(rf"(?<![\w./-])(?:\.runpod|{'|'.join(FOLDERS)})/[\w./-]*")
    named = {name.rstrip(".") for snippet in snippets(document) for name in path.findall(snippet)}
    assert [name for name in sorted(named) if not name.startswith(DOWNLOADED) and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_named_options_exist(document):
    """A command line of ours in a document has no unknown option."""
    for snippet in snippets(document):
        if found := COMMAND_LINE.search(snippet):
            program, *words = found[0].split()
            allowed = options_of(program, words)
            assert allowed is None or set(OPTION.findall(found[0])) <= allowed, snippet


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_named_variables_exist(document):
    """An environment variable in a document is a setting, or a name in our programs."""
    programs = [*(ROOT / "scripts").iterdir(), ROOT / "Dockerfile", ROOT / "docker-bake.hcl"]
    programs += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    known = " ".join([*(name.upper() for name in Settings.model_fields), *OF_OTHER_PROGRAMS])
    known += "".join(path.read_text("utf-8") for path in programs if path.is_file())
    named = {name for snippet in snippets(document) for name in re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+", snippet)}
    assert [name for name in sorted(named) if not re.search(rf"\b{name}", known)] == []


def test_documents_named_in_code_exist():
    """Comments, messages and scripts name no document that was moved or removed."""
    code = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    code += [*(ROOT / "scripts").iterdir(), ROOT / "Dockerfile", ROOT / "models.txt", ROOT / "docker-bake.hcl"]
    named = {name for path in code for name in re.findall(r"(?:\.\b)?\b(?:\w+/)*\w+\.md\b", path.read_text("utf-8"))}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_prices_are_those_that_verify_uses():
    """`docs/deploy.md` has the prices and the month of handler/cli/prices.json."""
    text = (ROOT / "docs/deploy.md").read_text("utf-8")
    known = json.loads((ROOT / "handler" / "cli" / "prices.json").read_text("utf-8"))
    rows = dict(re.findall(r"^\| ([\w ]+) \| (0\.[0-9]{5}) \|$", text, re.MULTILINE))
    assert {gpu: float(price) for gpu, price in rows.items()} == known["usd_per_second"]
    year, month = known["date"].split("-")
    assert f"{calendar.month_name[int(month)]}\n{year}" in text or f"{calendar.month_name[int(month)]} {year}" in text


@pytest.mark.parametrize("document", ["README.md", "docs/api.md"])
def test_the_example_of_an_error_is_the_real_message(document):
    """A prompt is missing, the seed has the wrong type, and `steps` is another service's name."""
    with pytest.raises(InvalidInput) as caught:
        profiles.read(Settings(profile="tiny")).parse({"seed": True, "steps": 3})
    assert plain(str(caught.value)) in plain(read(document))


def plain(text):
    """Returns text without quotes, backslashes and line ends, which differ between the documents."""
    return " ".join(text.replace("\\", "").replace('"', "").split())
