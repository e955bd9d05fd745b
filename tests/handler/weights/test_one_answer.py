"""Every command and the worker give the same answer to "is this weight file here?"."""

import hashlib
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from handler.cli import checks, models
from handler.job import profiles
from handler.settings import Settings
from handler.weights import locate
from handler.workflow.workflow import ModelFile
from tests.loopback import LoopbackServer

CONTENT = b"0123456789"
REVISION = "0123456789abcdef0123456789abcdef01234567"
NAMES = (
    "checkpoints/sd_xl_base_1.0.safetensors",
    "layer_model/layer_xl_transparent_attn.safetensors",
    "layer_model/vae_transparent_decoder.safetensors",
)
CACHED = f"cache/models--someone--weights/snapshots/{REVISION}"


class EmptyHub(LoopbackServer):
    """Has no file, and counts requests."""

    def __init__(self):
        self.paths = []

    def routes(self):
        from aiohttp import web

        async def refuse(request):
            self.paths.append(request.path)
            return web.Response(status=404)

        return [web.route("*", "/{path:.*}", refuse)]


@pytest.fixture
def hub():
    with EmptyHub() as running:
        yield running


@pytest.fixture
def settings(tmp_path, monkeypatch, hub):
    """SDXL's three names in a list; a models folder, a volume and a cache of the hub without any file."""
    lines = [
        f"{hashlib.sha256(CONTENT).hexdigest()} {len(CONTENT)} {name} "
        f"https://huggingface.co/someone/weights/resolve/{REVISION}/{Path(name).name}"
        for name in NAMES
    ]
    (tmp_path / "models.txt").write_text("\n".join(["[sdxl]", *lines]))
    for name in ("models", "volume", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("MODELS_FILE", str(tmp_path / "models.txt"))
    monkeypatch.setenv("WEIGHTS_DIRS", str(tmp_path / "volume"))
    monkeypatch.setenv("HF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://{hub.address}")
    return Settings()


def put(tmp_path, place):
    """Puts the three files into one of the folders."""
    for name in NAMES:
        path = tmp_path / place / (Path(name).name if place == CACHED else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT)


def run(*arguments):
    return CliRunner().invoke(models.app, arguments)


def answers(settings):
    """Returns what each of the five says: whether all three files are here."""
    listed = run("list").stdout.splitlines()
    return {
        "worker": not locate.missing(profiles.load(settings).models, settings),
        "doctor": all(checks._weight(settings, ModelFile(*name.split("/"))).fact != "missing" for name in NAMES),
        "list": len(listed) == 3 and all("present" in line for line in listed),
        "fetch": run("fetch").exit_code == 0,
        "verify": run("verify").exit_code == 0,
    }


@pytest.mark.parametrize("place", ["models", "volume", CACHED])
def test_all_find_the_files_in_each_place(settings, hub, tmp_path, place):
    """In the models folder, on a volume and in the cache of the hub; nothing is downloaded."""
    put(tmp_path, place)
    assert answers(settings) == dict.fromkeys(("worker", "doctor", "list", "fetch", "verify"), True)
    assert hub.paths == []
    assert place == "models" or not any((tmp_path / "models").rglob("*.safetensors"))


def test_all_miss_the_files_that_are_nowhere(settings):
    """An empty machine: the worker misses SDXL's files, and each command fails."""
    assert answers(settings) == dict.fromkeys(("worker", "doctor", "list", "fetch", "verify"), False)


def test_list_says_where_a_file_is(settings, tmp_path):
    """The folder is named unless it is the models folder."""
    put(tmp_path, "volume")
    shutil.copytree(tmp_path / "volume" / "checkpoints", tmp_path / "models" / "checkpoints")
    first, *others = run("list").stdout.splitlines()
    assert first.endswith(NAMES[0])
    assert all(line.endswith(f"in {tmp_path / 'volume'}") for line in others)
