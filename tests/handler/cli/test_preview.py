"""`--show` in terminals of several kinds, which are pseudo-terminals that answer as the real ones do."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

import pytest
from PIL import Image

from handler.cli import preview

SIXELS = {b"\x1b[c": b"\x1b[?62;4c"}  # device attributes: 4 means sixels (DEC STD 070)
KITTY = {b"a=q": b"\x1b_Gi=1;OK\x1b\\", b"\x1b[c": b"\x1b[?62c"}
PLAIN = {b"\x1b[c": b"\x1b[?62c"}


@pytest.fixture
def picture(tmp_path):
    """A file with a red picture whose right half is transparent."""
    image = Image.new("RGBA", (64, 64), "red")
    image.paste((0, 0, 0, 0), (32, 0, 64, 64))
    image.save(tmp_path / "a.png")
    return tmp_path / "a.png"


def shown_in(answers, picture, columns=80):
    """Returns what the program writes to a terminal that gives these answers to these requests."""
    pid, terminal = pty.fork()
    if pid == 0:
        program = "import pathlib, sys; from handler.cli import preview; preview.show(pathlib.Path(sys.argv[1]))"
        os.execv(sys.executable, [sys.executable, "-c", program, str(picture)])  # noqa: S606 -- in the terminal's child
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 10 * columns, 480))
    written, end_s = b"", time.monotonic() + 30
    waiting = dict(answers)
    while time.monotonic() < end_s:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the program has ended
            break
        written += part
        for request in [request for request in waiting if request in written]:
            os.write(terminal, waiting.pop(request))
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0, written
    return written


@pytest.mark.parametrize(
    ("answers", "expected"),
    [(SIXELS, b"\x1bP"), (KITTY, b"\x1b_G"), (PLAIN, "▀".encode())],
    ids=["sixels", "kitty", "blocks"],
)
def test_a_picture_is_shown_as_the_terminal_can(answers, expected, picture):
    """With sixels or kitty's protocol if the terminal says that it knows them, else with coloured blocks."""
    assert expected in shown_in(answers, picture)


def test_nothing_is_shown_without_a_terminal_or_its_size(picture, capfd):
    """The library would divide by the number of columns."""
    preview.show(picture)
    assert capfd.readouterr().out == ""
    assert shown_in({}, picture, columns=0) == b""


def test_a_sheet_has_each_picture_over_a_checkerboard(picture, tmp_path):
    """Enlarged without blur; transparent pixels show the checkerboard; texts of any language and length fit."""
    preview.sheet([(picture, "x" * 500), (picture, "苹果 🍎"), (picture, "")], tmp_path / "sheet.webp")
    with Image.open(tmp_path / "sheet.webp") as sheet:
        assert sheet.size == (3 * 200 + 8, 192 + 44 + 16)
        pixels = sheet.convert("RGB")
        left, middle = preview.GAP, preview.GAP + preview.CELL // 2
        assert pixels.getpixel((middle - 3, middle))[1] < 60
        assert pixels.getpixel((middle + 3, middle))[1] > 180
        assert pixels.getpixel((left + 2, left + 2))[0] > 230
