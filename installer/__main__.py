"""Installs or repairs what the lock files list: python -m installer [--dev] [--gui] [--training] [--repair] …"""

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from installer import bytecode, comfyui, environment, launcher, nodes, report, snapshot
from installer.errors import SetupError

COMFYUI_URL = "https://github.com/comfyanonymous/ComfyUI"
LOCK_TIMEOUT_S = 3600.0

Say = Callable[[str], None]


class Setup:
    """The steps of a setup. Each is idempotent and reports what it found or did."""

    def __init__(self, root: Path, options: argparse.Namespace) -> None:
        self.root = root
        self.options = options
        self.state = root / ".comfyui"
        for extra in ("dev", "gui"):
            if getattr(options, extra):
                (self.state / extra).touch()
        self.dev = ("dev",) if (self.state / "dev").exists() else ()
        self.gui = ("gui",) if (self.state / "gui").exists() else ()
        self.uv = root / ".tools/bin/uv"
        self.snapshot = snapshot.parse((root / "snapshot.json").read_text(encoding="utf-8"))

    def run(self) -> None:
        """Runs all steps in order."""
        self._step("ComfyUI", self._comfyui)
        self._step("node packs", self._nodes)
        self._step("handler environment", self._handler)
        self._step("ComfyUI environment", self._engine)
        if not self.options.no_bytecode:
            self._step("bytecode", self._bytecode)
        if self.options.training:
            self._step("training environment", self._trainer)
        if self.options.with_upstream:
            self._step("disabled packs", self._disabled)

    def _comfyui(self, say: Say) -> str:
        source_lock = self.root / "requirements/comfyui-source.txt"
        python = self.root / ".tools/bin/python"
        pinned = comfyui.Tree(self.state / "app", COMFYUI_URL, self.snapshot.comfyui, python, source_lock)
        return comfyui.ensure(pinned, say)

    def _nodes(self, _: Say) -> str:
        data = self.state / "data"
        models = self.root / "models"
        models.mkdir(exist_ok=True)
        nodes.link(data / "models", models)
        # ComfyUI creates it before it reads --input-directory. If it cannot, as in the image, it logs each line twice.
        (data / "input").mkdir(exist_ok=True)
        linked = nodes.link_packs(self.root / "custom_nodes", data / "custom_nodes")
        pinned = nodes.install_pinned(self.snapshot.git_nodes, data / "custom_nodes")
        return f"ok ({linked} linked, {pinned} from git)"

    def _handler(self, say: Say) -> str:
        result = self._environment(".venv", say, "handler", *self.dev)
        launcher.ensure(self.root / ".venv")
        return result

    def _engine(self, say: Say) -> str:
        return self._environment(".comfyui/venv", say, "comfyui", *self.gui, *self.dev)

    def _bytecode(self, _: Say) -> str:
        return f"handler {bytecode.compile_handler(self.root)}, ComfyUI {bytecode.compile_comfyui(self.root)}"

    def _trainer(self, say: Say) -> str:
        return self._environment(".training/venv", say, "training")

    def _disabled(self, _: Say) -> str:
        places = nodes.install_disabled(self.snapshot.git_nodes, self.state / "upstream")
        return f"ok, not loaded: {', '.join(str(place.relative_to(self.root)) for place in places)}"

    def _environment(self, folder: str, say: Say, *locks: str) -> str:
        paths = tuple(self.root / "requirements" / f"{lock}.txt" for lock in locks)
        return environment.ensure(self.uv, environment.Environment(self.root / folder, paths), say, self.options.repair)

    def _step(self, name: str, action: Callable[[Say], str]) -> None:
        started = time.monotonic()
        result = action(lambda words: report.line(name, words))
        report.line(name, f"{result} {time.monotonic() - started:.1f} s")


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Locks the file during the block; waits if another setup has locked it.

    Raises:
        SetupError: it was still locked after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    reported = False
    with path.open("a") as file:
        os.set_inheritable(file.fileno(), True)
        while not _try_lock(file.fileno()):
            if time.monotonic() > deadline:
                raise SetupError(f"another setup still runs after {timeout_s:g} s")
            if not reported:
                report.line("setup", "waiting for another setup")
                reported = True
            time.sleep(0.2)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main() -> int:
    """Runs the setup and returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/setup", description="Install or repair everything in this folder.")
    parser.add_argument("--dev", action="store_true", help="also install the development tools")
    parser.add_argument("--gui", action="store_true", help="also install what scripts/gui needs (0.5 GB)")
    parser.add_argument("--training", action="store_true", help="also install what training the tiny model needs")
    parser.add_argument(
        "--with-upstream", action="store_true", help="also fetch the packs that snapshot.json disables, for comparison"
    )
    parser.add_argument("--no-bytecode", action="store_true", help="do not compile what is imported at every start")
    parser.add_argument("--repair", action="store_true", help="install all environments again from scratch")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    root = Path.cwd()
    started = time.monotonic()
    try:
        (root / ".comfyui").mkdir(exist_ok=True)
        with locked(root / ".comfyui/setup.lock", LOCK_TIMEOUT_S):
            Setup(root, options).run()
    except KeyboardInterrupt:
        report.failure("interrupted")
        return 130
    except (SetupError, OSError) as exc:
        report.failure(str(exc))
        return 1
    report.line("setup", f"done {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
