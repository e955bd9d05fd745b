"""Fixture: the command line, run in this process; a new one spends seconds on imports."""

import logging
import signal
import sys
from types import SimpleNamespace

import pytest


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Runs the program with the tiny model: `command_line(*arguments, **environment)` returns what a process would."""
    from handler.cli import main

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments, **environment):
        with monkeypatch.context() as patch:
            for name, value in {"PROFILE": "tiny", "DEVICE": "cpu", **environment}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["layerdiffuse-alpha", *arguments])
            with pytest.raises(SystemExit) as exited:
                main.main()
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=exited.value.code or 0, stdout=out, stderr=err)

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    for number, handler in signals.items():
        signal.signal(number, handler)
