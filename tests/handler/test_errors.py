import pytest

from handler import errors
from handler.errors import GenerationError, NodeFailed, presentable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No such file: '/srv/models/a b/x.safetensors'", "No such file: 'x.safetensors'"),
        ('"/srv/a b/c d.txt" and `~/e f/g`', '"c d.txt" and `g`'),
        (r"cannot open '\\host\share x\y.txt'", "cannot open 'y.txt'"),
        (r"cannot open \\host\share\y.txt", "cannot open y.txt"),
        ("cannot open /opt/app/models/x.safetensors", "cannot open x.safetensors"),
        (r"cannot open C:\models\x.safetensors now", "cannot open x.safetensors now"),
        ("~/secret/place.txt", "place.txt"),
        ("1/2 of a and/or b", "1/2 of a and/or b"),
        ("models/loras/x.safetensors is missing", "models/loras/x.safetensors is missing"),
        ("two\nlines\tand  blanks", "two lines and blanks"),
        ("half a pair: \ud800", "half a pair: \\ud800"),
    ],
)
def test_presentable(text, expected):
    """Callers get one line of valid Unicode without absolute folders."""
    assert presentable(text) == expected


def test_messages_are_bounded():
    """No message is longer than 600 characters."""
    assert len(NodeFailed("x" * 10_000).message) == errors.MESSAGE_CHARACTERS


def test_codes_are_unique_and_listed():
    """Each kind of error has a code of its own, and the module's tree shows it."""
    kinds = GenerationError.__subclasses__()
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(kinds)
    assert all(f"{kind.__name__} " in errors.__doc__ and kind.code in errors.__doc__ for kind in kinds)


def test_text_of_an_error_is_code_and_message():
    """A job's error reads "code: message"."""
    assert str(NodeFailed("boom")) == "node_failed: boom"
