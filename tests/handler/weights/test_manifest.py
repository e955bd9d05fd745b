"""models.txt: its format, and that it lists what the stored workflow needs."""

import json
import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weight_server import NAME, SHA256, line

from handler.settings import ROOT
from handler.weights import locate, manifest
from handler.weights.manifest import BadList, Entry
from handler.workflow.build import build


def test_a_line_has_hash_size_path_and_urls():
    """Any blanks separate fields; comments and empty lines are skipped."""
    text = f"# head\n\n[one]\n{SHA256}\t 7  {NAME} https://example.com/a   http://mirror.example/b\n[two]\n"
    text += line(size="~90", path="b") + "\n"
    first, second = manifest.parse(text)
    assert first == Entry(
        "one", SHA256, 7, False, PurePosixPath(NAME), ("https://example.com/a", "http://mirror.example/b")
    )
    assert (second.section, second.is_rough, second.size_bytes, second.max_bytes) == ("two", True, 90, 112)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (line(sha256="abc"), "sha256 must be 64 lower-case hexadecimal digits"),
        (line(sha256=SHA256.upper()), "sha256 must be"),
        (line(size="-7"), "size must be a number of bytes"),
        (line(size="0"), "size must be"),
        (line(size="7e9"), "size must be"),
        (line(size="\u0667"), "size must be"),
        (line(path="/etc/passwd"), "path must be names below models/"),
        (line(path="../a"), "path must be"),
        (line(path="loras/../../a"), "path must be"),
        (line(path="loras//a"), "path must be"),
        (line(path="loras/"), "path must be"),
        (line(path="./a"), "path must be"),
        (line(path="C:\\a"), "path must be"),
        (line(path="~root/a"), "path must be"),
        (line(path=NAME.upper()), "is already listed in line 2"),
        (line(url="ftp://example.com/a"), "URL must begin with http:// or https://"),
        (line(url="file:///etc/passwd"), "URL must begin"),
        (line(url="https://"), "URL must begin"),
        (line(url="https://example.com:x/a"), "is invalid"),
        (f"{SHA256} 7 b", "must have sha256, size, path and URL, got 3 fields"),
        ("[two", "a section must be"),
        ("[Two]", "a section must be"),
        ("[two] # extras", "a section must be"),
    ],
)
def test_a_fault_names_its_line_and_what_was_expected(wrong, reason):
    """The third line is wrong in one way."""
    with pytest.raises(BadList, match=r"^models\.txt: line 3: ") as caught:
        manifest.parse(f"[one]\n{line()}\n{wrong}\n")
    assert reason in str(caught.value)


def test_one_error_names_all_faults():
    """Two wrong lines make one message."""
    with pytest.raises(BadList, match=r"line 1: is before the first \[section\]; line 3: size must be"):
        manifest.parse(f"{line()}\n[one]\n{line(size='x')}\n")


@given(st.lists(st.text("./\\~aC:\0 \u2028"), min_size=1))
def test_no_path_leaves_the_models_folder(names):
    """Any text as path is either refused or below the models folder."""
    folder = Path("/somewhere/models")
    try:
        found = manifest.parse("[one]\n" + "\n".join(line(path=name) for name in names))
    except BadList:
        return
    assert all(Path(os.path.normpath(each.target(folder))).is_relative_to(folder) for each in found)


def test_an_unreadable_list_is_an_error(tmp_path):
    """It is missing, or not text."""
    with pytest.raises(BadList, match="models.txt cannot be read: No such file"):
        manifest.read(tmp_path / "models.txt")
    (tmp_path / "models.txt").write_bytes(b"\xff")
    with pytest.raises(BadList, match="is not UTF-8"):
        manifest.read(tmp_path / "models.txt")


def test_an_unknown_section_is_an_error():
    """The message lists the known ones."""
    with pytest.raises(BadList, match="has no section tiny, expected one"):
        manifest.of_sections(manifest.parse(f"[one]\n{line()}"), ["one", "tiny"])


# The repository's own models.txt


def stored_models(profile="sdxl"):
    def stored(name):
        return json.loads((ROOT / "workflows" / name).read_text("utf-8"))

    overrides = {} if profile == "sdxl" else stored(f"profiles/{profile}.json")
    graph, params = stored("txt2img_alpha.json"), stored("txt2img_alpha.params.json")
    return set(build("txt2img_alpha", graph, params, profile, overrides).models)


def test_the_section_sdxl_is_what_the_stored_workflow_needs():
    """The same files, in the same folders, and no others."""
    listed = manifest.of_sections(manifest.read(ROOT / "models.txt"), [manifest.DEFAULT_SECTION])
    assert {each.file for each in listed} == stored_models()


def test_the_tiny_weights_are_not_listed():
    """Git has them."""
    assert {each.file for each in manifest.read(ROOT / "models.txt")}.isdisjoint(stored_models("tiny"))


def test_every_first_url_names_a_revision_of_the_hub():
    """So its content cannot change, and the file can also come from a cache of the hub."""
    entries = manifest.read(ROOT / "models.txt")
    assert all(locate.HUB_URL.fullmatch(each.urls[0]) for each in entries)
    assert all(PurePosixPath(url).name == each.path.name for each in entries for url in each.urls)
