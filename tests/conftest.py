"""Each suite runs in the environment of what it tests: nodes and training with torch, everything else without it."""

import subprocess
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["browser", "command_line", "small_disk", "unprivileged"]

HERE = Path(__file__).parent
WITH_TORCH = {"custom_nodes", "training"}

everything = {path.name for path in HERE.iterdir() if path.is_dir() or path.name.startswith("test_")}
collect_ignore = sorted(everything - WITH_TORCH if find_spec("torch") else WITH_TORCH)

# Files of tests/integration that share a fixture which takes ten seconds to start: one process runs all of them.
SHARED = {
    **dict.fromkeys(("test_cache", "test_delivery", "test_doctor", "test_faults", "test_golden"), "comfyui"),
    **dict.fromkeys(("test_jobs", "test_recording", "test_transparency", "test_warm_up"), "comfyui"),
    **dict.fromkeys(("test_generate", "test_load", "test_page", "test_server"), "server"),
}

settings.register_profile("unhurried", deadline=None)  # an example's time means nothing on a busy machine
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def nvidia_driver(tmp_path_factory):
    """A folder for LD_LIBRARY_PATH: a process that starts with it sees an NVIDIA driver and a GPU (nvml.c)."""
    folder = tmp_path_factory.mktemp("nvidia")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", library, HERE / "nvml.c"], check=True)
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--skipped", type=Path, help="file to append a line to for each reason why tests were skipped")


class ByFileOrFixture(LoadScopeScheduling):
    """Sends the files that share something slow to one process, and the others file by file.

    xdist's own loadgroup does not work with pytest 9.2: it sets an attribute that pytest no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", maxsplit=1)[0]
        return SHARED.get(Path(file).stem, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return ByFileOrFixture(config, log)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Starts with the slow tests, so that all processes end at about the same time."""
    items.sort(key=lambda item: item.path.parent.name != "integration")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Writes what scripts/test shows as its last line."""
    path = config.getoption("--skipped")
    if path is None:
        return
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped"))
    with path.open("a") as file:
        file.writelines(f"{count} tests ({reason})\n" for reason, count in reasons.items())
