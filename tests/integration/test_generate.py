"""`generate` of several pictures, with the real server."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image
from server import PROGRAM

SMALL = "64x64"


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "list.csv"
    lines = [f'"a {colour} apple",{seed},{SMALL},4' for colour in ("red", "green") for seed in (7, 8, 9)]
    file.write_text("\n".join(["prompt,seed,size,steps", *lines, "a red star,,63x64,\n"]))
    return file


def test_a_killed_list_continues(server, command_line, prompts, tmp_path):
    """Pictures that were drawn before the kill stay as they are; half a file does not count; a fault stops no other."""
    out, sheet = tmp_path / "out", tmp_path / "sheet.png"
    arguments = ["generate", "--prompts", str(prompts), "-o", str(out), "--sheet", str(sheet), "--url", server.url]
    first = subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end_s = time.monotonic() + 60
    while len(list(out.glob("*.png"))) < 2:
        assert time.monotonic() < end_s
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert 2 <= len(before) < 6
    (out / "a-red-apple-00000000.png.part").write_bytes(b"\x89PNG")
    done = command_line(*arguments, "--json")
    assert done.returncode == 1
    assert "a-red-star-" in done.stderr
    assert "width must be" in done.stderr
    assert f"{len(before)} pictures exist" in done.stderr
    assert "1 of 7 pictures failed" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    reported = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(line["file"] for line in reported) == sorted(map(str, out.glob("*.png")))
    assert sum("skipped" in line for line in reported) == len(before)
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    with Image.open(sheet) as page:
        assert page.size[0] == 4 * 200 + 8


def test_standard_output_has_only_the_picture(server):
    """-o - writes the bytes, the report goes to standard error."""
    options = ["-o", "-", "--size", SMALL, "--steps", "4", "--url", server.url]
    done = subprocess.run([PROGRAM, "generate", "a red apple", *options], capture_output=True, check=True, timeout=60)
    assert done.stdout.startswith(b"\x89PNG")
    assert done.stdout.endswith(b"IEND\xaeB`\x82")
    assert b"64x64 RGBA" in done.stderr


def test_the_command_line_writes_what_the_suffix_says(server, command_line, tmp_path):
    """A trimmed WebP of a size by name, reported as JSON."""
    options = ["--seed", "7", "-n", "2", "--size", "landscape_3_2", "--trim", "--json", "--url", server.url]
    done = command_line("generate", "a red apple", "-o", str(tmp_path / "a.webp"), *options)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(Path(line["file"]).name, line["seed"], line["width"]) for line in lines] == [
        ("a-1.webp", 7, 192),
        ("a-2.webp", 8, 192),
    ]
    with Image.open(tmp_path / "a-1.webp") as image:
        picture = lines[0]["picture"]
        assert (image.format, *image.size) == ("WEBP", picture["width"], picture["height"])
        assert image.size[0] < 192


def test_a_workflow_with_an_input_picture(server, command_line, tmp_path):
    """--image names a file; another file gives another picture."""
    for colour in ("grey", "green"):
        Image.new("RGB", (30, 30), colour).save(tmp_path / f"{colour}.jpg")
        options = ["--workflow", "foreground_on_background", "--image", str(tmp_path / f"{colour}.jpg"), "--seed", "7"]
        small = ["--size", SMALL, "--steps", "4", "-o", str(tmp_path / f"{colour}.png")]
        done = command_line("generate", "a red apple", *options, *small, "--url", server.url)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "grey.png").read_bytes() != (tmp_path / "green.png").read_bytes()
