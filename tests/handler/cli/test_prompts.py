"""Lists of prompts and the names of their pictures, without drawing."""

import base64
import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from handler.cli import outputs, prompts
from handler.cli.fields import Fields
from handler.cli.terminal import CommandFailed
from handler.job import profiles
from handler.settings import Settings

FIELDS = Fields(profiles.read(Settings(profile="tiny")).parameters)


def read(tmp_path, name, text, count=1, **options):
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return prompts.requests([], file, options, count, FIELDS)


def test_a_text_file_has_one_prompt_a_line(tmp_path):
    """Blank lines, a byte order mark and Windows' line ends do not matter; commas are part of a prompt."""
    found = read(tmp_path, "list.txt", "\ufeffa red apple, ripe\r\n\r\n  a star \n", trim=True)
    assert found == [{"prompt": "a red apple, ripe", "trim": True}, {"prompt": "a star", "trim": True}]


def test_the_columns_of_a_csv_file_are_parameters(tmp_path):
    """Fields and their aliases; an empty cell means the option, or the default; digits in a prompt are text."""
    text = 'prompt,seed,steps,size,trim,guidance,negative,odd\n"an apple, ripe",7,8,64x128,TRUE,2.5,7,1\n42,x,,square\n'
    assert read(tmp_path, "list.CSV", text, seed=3, format="webp", negative=None) == [
        {
            "prompt": "an apple, ripe",
            "output_format": "webp",
            "seed": 7,
            "num_inference_steps": 8,
            "width": 64,
            "height": 128,
            "trim": True,
            "guidance_scale": 2.5,
            "negative_prompt": "7",
            "odd": "1",
        },
        {"output_format": "webp", "prompt": "42", "seed": "x", "size": "square"},
    ]


def test_prompts_come_from_everywhere_and_seeds_count_up(tmp_path, monkeypatch):
    """The command line, standard input and a file in one list; each prompt has the same seeds."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"b\nc\n")))
    (tmp_path / "list").write_text("d")
    found = prompts.requests(["a", "-"], tmp_path / "list", {"seed": 5}, 2, FIELDS)
    assert [(each["prompt"], each["seed"]) for each in found] == [(text, seed) for text in "abcd" for seed in (5, 6)]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.txt", "\n \n", "a.txt has no prompts"),
        ("a.csv", "prompt,seed\n", "a.csv has no prompts"),
        ("a.csv", "a red apple\na star\n", "a.csv has no column named prompt in its first line"),
        ("a.csv", "prompt,seed\nx,1\nan apple, ripe, 7\n", "a.csv line 3: more cells than columns"),
        ("a.csv", 'prompt\n"x\n', "unexpected end of data"),
        ("a.txt", b"\xff\xfe", "a.txt is not UTF-8: byte 0"),
    ],
)
def test_a_bad_list_is_refused(tmp_path, name, text, reason):
    """With its line."""
    with pytest.raises(CommandFailed, match=reason):
        read(tmp_path, name, text)


def test_a_file_in_a_folder_is_named_after_its_request(tmp_path):
    """Another line in the list changes no other name; the same line twice has two names; so has another seed."""
    lines = [{"prompt": "A red/apple!"}, {"prompt": "a star", "seed": 1}, {"prompt": "A red/apple!"}]
    names = [each.path.name for each in outputs.plan(tmp_path / "new", lines)]
    assert [name.rsplit("-", 1)[0] for name in names] == ["a-red-apple", "a-star", "a-red-apple"]
    longer = [{"prompt": "x"}, *lines, {"prompt": "a star", "seed": 2}, {"prompt": "../é" * 99}]
    more = [each.path for each in outputs.plan(tmp_path / "new", longer)]
    assert [path.name for path in more[1:4]] == names
    assert len(set(more)) == 6
    assert {path.parent for path in more} == {tmp_path / "new"}
    assert max(len(path.name) for path in more) < 60


def test_numbers_of_a_named_file_continue(tmp_path):
    """A second call overwrites none of the first one's pictures. A name that the caller typed is overwritten."""
    for name in ("a[1]-1.png", "a[1]-2.png", "a[1]-9.webp", "a[1]-x.png", "b-7.png", "a[1].png"):
        (tmp_path / name).touch()
    planned = outputs.plan(tmp_path / "a[1].png", [{"prompt": "x"}, {"prompt": "y"}])
    assert [each.path.name for each in planned] == ["a[1]-3.png", "a[1]-4.png"]
    (one,) = outputs.plan(tmp_path / "a[1].png", [{"prompt": "x"}])
    assert one.path.name == "a[1].png"


def test_a_named_file_is_numbered_and_never_skipped(tmp_path):
    """Its suffix decides the format."""
    (tmp_path / "a.webp").touch()
    (one,) = outputs.plan(tmp_path / "a.webp", [{"prompt": "x"}])
    assert (one.is_done, one.request["output_format"]) == (False, "webp")
    two = outputs.plan(Path("a.png"), [{"prompt": "x"}, {"prompt": "y"}])
    assert [str(each.path) for each in two] == ["a-1.png", "a-2.png"]


def test_a_picture_is_read_from_its_file(tmp_path):
    """Also one that a list names; a URL and a data URL stay as they are."""
    fields = Fields(profiles.read(Settings(profile="tiny", workflow="foreground_on_background")).parameters)
    (tmp_path / "beach.jpg").write_bytes(b"a picture")
    for name in ("image", "background_image"):
        request = fields.request({name: str(tmp_path / "beach.jpg")})
        assert request == {"background_image": base64.b64encode(b"a picture").decode()}
    for value in ("https://pictures.example/a.png", "data:image/png;base64,eA=="):
        assert fields.request({"image": value}) == {"background_image": value}
    with pytest.raises(CommandFailed, match=r"missing\.png cannot be read: No such file"):
        fields.request({"image": str(tmp_path / "missing.png")})
