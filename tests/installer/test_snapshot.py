"""snapshot.json is read strictly, and every error names the key."""

import json
from pathlib import Path

import pytest

from installer import snapshot
from installer.errors import SetupError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
URL = "https://example.com/somebody/Some-Pack.git"


def document(**changes: object) -> dict[str, object]:
    node = {"hash": COMMIT, "disabled": False}
    plain: dict[str, object] = {
        "comfyui": COMMIT,
        "git_custom_nodes": {URL: node},
        "cnr_custom_nodes": {},
        "file_custom_nodes": [],
        "pips": {},
    }
    return {**plain, **changes}


def test_a_valid_snapshot_is_read() -> None:
    """Commit, URL, name and the disabled flag are those in the file."""
    found = snapshot.parse(json.dumps(document()))
    assert found.comfyui == COMMIT
    assert found.git_nodes == (snapshot.GitNode(URL, COMMIT, False),)
    assert found.git_nodes[0].name == "Some-Pack"


def test_the_repository_s_own_snapshot_is_read(root: Path) -> None:
    """The repository's snapshot is valid and lists the old pack as disabled."""
    found = snapshot.parse((root / "snapshot.json").read_text())
    assert [(node.name, node.disabled) for node in found.git_nodes] == [("ComfyUI-layerdiffuse", True)]


@pytest.mark.parametrize("key", ["comfyui", "git_custom_nodes", "cnr_custom_nodes", "file_custom_nodes", "pips"])
def test_a_missing_key_is_named(key: str) -> None:
    """A missing key is an error that names it."""
    members = document()
    del members[key]
    with pytest.raises(SetupError, match=f"lacks the key {key}"):
        snapshot.parse(json.dumps(members))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"comfyui": COMMIT[:39]}, "comfyui must be 40"),
        ({"comfyui": COMMIT.upper()}, "comfyui must be 40"),
        ({"comfyui": COMMIT + "\n"}, "comfyui must be 40"),
        ({"comfyui": None}, "comfyui must be 40 .* got null"),
        ({"comfyui": 7}, "comfyui must be 40 .* got 7"),
        ({"colour": 1}, "unknown key colour"),
        ({"git_custom_nodes": []}, "git_custom_nodes must be an object"),
        ({"git_custom_nodes": {URL: COMMIT}}, f"{URL} must be an object"),
        ({"git_custom_nodes": {URL: {"hash": COMMIT}}}, "lacks the key disabled"),
        ({"git_custom_nodes": {URL: {"disabled": True}}}, "lacks the key hash"),
        ({"git_custom_nodes": {URL: {"hash": "main", "disabled": True}}}, 'hash must be 40 .* got "main"'),
        ({"git_custom_nodes": {URL: {"hash": COMMIT, "disabled": 0}}}, "disabled must be true or false, got 0"),
        ({"git_custom_nodes": {URL: {"hash": COMMIT, "disabled": True, "x": 1}}}, "unknown key x"),
        ({"cnr_custom_nodes": {"pack": "1.0"}}, "cnr_custom_nodes must be {}"),
        ({"file_custom_nodes": [{"filename": "a.py"}]}, r"file_custom_nodes must be \[\]"),
        ({"pips": {"torch": ""}}, "pips must be {}"),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, object], named: str) -> None:
    """A bad hash, a wrong type, an unknown key or something that would not be installed is an error that names it."""
    with pytest.raises(SetupError, match=named):
        snapshot.parse(json.dumps(document(**changes)))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a/b",
        "git@example.com:a/b",
        "ext::sh -c true",
        "--upload-pack=x",
        "https://example.com/a/..",
        "https://example.com/a/.git",
        "https://example.com/",
        "https://user@example.com/a/b",
        "https://example.com/a/b ",
        "",
    ],
)
def test_only_plain_https_urls_are_accepted(url: str) -> None:
    """A URL that git could read as an option, a command or a path outside the folder is rejected."""
    with pytest.raises(SetupError, match="must be an https address"):
        snapshot.parse(json.dumps(document(git_custom_nodes={url: {"hash": COMMIT, "disabled": False}})))


def test_two_packs_with_the_same_name_are_rejected() -> None:
    """Two URLs with the same folder name are an error that names both."""
    node = {"hash": COMMIT, "disabled": False}
    both = {"https://example.com/a/Pack": node, "https://example.com/b/pack.git": node}
    with pytest.raises(SetupError, match=r"a/Pack, .*b/pack\.git"):
        snapshot.parse(json.dumps(document(git_custom_nodes=both)))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "must be an object"),
        ('{"pips": {}, "pips": {}}', "pips appears twice"),
    ],
)
def test_text_that_is_not_a_snapshot_is_rejected(text: str, named: str) -> None:
    """Invalid JSON, another top-level type and a duplicate key are errors."""
    with pytest.raises(SetupError, match=named):
        snapshot.parse(text)
