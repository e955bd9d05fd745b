"""HF_TOKEN reaches https://huggingface.co and no other server. A loopback server stands in for that address."""

import pytest
from typer.testing import CliRunner
from weight_server import CONTENT, HALF, NAME, SIZE, leave_part, line, redirects, status

from handler.cli import models
from handler.settings import Settings
from handler.weights import download, transfer

TOKEN = "hf_secret"
PATH = "owner/name/resolve/0123456789abcdef0123456789abcdef01234567/a"


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """Runs `models fetch` for one URL, on a machine with the token in every place that the hub's tools know."""
    home = tmp_path / "home"
    for path in (home / ".cache/huggingface/token", home / "token"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TOKEN)
    (home / ".netrc").write_text(f"machine 127.0.0.1 login x password {TOKEN}\n")
    (home / ".netrc").chmod(0o600)
    for name, value in {
        "HOME": home,
        "NETRC": home / ".netrc",
        "HF_TOKEN": TOKEN,
        "HUGGING_FACE_HUB_TOKEN": TOKEN,
        "HF_TOKEN_PATH": home / "token",
        "MODELS_DIR": tmp_path / "models",
        "MODELS_FILE": tmp_path / "models.txt",
        "WEIGHTS_DIRS": tmp_path / "none",
        "HF_CACHE_DIR": tmp_path / "none",
    }.items():
        monkeypatch.setenv(name, str(value))

    def run(*urls):
        (tmp_path / "models.txt").write_text(f"[sdxl]\n{line(size=SIZE, url=' '.join(urls))}\n")
        return CliRunner().invoke(models.app, ["fetch"])

    return run


@pytest.fixture
def hub(server, monkeypatch):
    """A server that stands in for https://huggingface.co."""
    for module in (download, transfer):
        monkeypatch.setattr(module, "HUB", f"http://{server.address}")
    monkeypatch.setenv("HF_ENDPOINT", f"http://{server.address}")
    return server


def tokens(server):
    """Returns the Authorization header of each request; fails if the token is anywhere else in one."""
    for request in server.seen:
        others = {name: value for name, value in request.headers.items() if name != "Authorization"}
        assert TOKEN not in f"{request.path_qs} {others}"
    return [request.headers.get("Authorization") for request in server.seen]


def test_the_hub_gets_the_token_and_its_storage_does_not(fetch, hub, mirror, tmp_path):
    """The hub redirects once to itself, then to another server; both get the range."""
    leave_part(tmp_path / "models", CONTENT[:HALF])
    hub.plan = [redirects(hub.url("renamed")), redirects(mirror.url())]
    assert fetch(hub.url(PATH)).exit_code == 0
    assert tokens(hub) == [f"Bearer {TOKEN}"] * 2
    assert (tokens(mirror), mirror.ranges()) == ([None], [f"bytes={HALF}-"])


def test_a_second_url_does_not_get_the_token(fetch, hub, mirror):
    """It is another server's."""
    hub.plan = [status(404)]
    assert fetch(hub.url(PATH), mirror.url()).exit_code == 0
    assert (tokens(hub), tokens(mirror)) == ([f"Bearer {TOKEN}"], [None])


def test_a_mirror_of_the_hub_does_not_get_the_token(fetch, mirror, monkeypatch):
    """HF_ENDPOINT replaces the hub's address, with a path or without."""
    monkeypatch.setenv("HF_ENDPOINT", f"http://{mirror.address}/hub/")
    assert fetch(f"https://huggingface.co/{PATH}").exit_code == 0
    assert mirror.seen[0].path == f"/hub/{PATH}"
    assert tokens(mirror) == [None]


def test_redirects_of_a_mirror_do_not_carry_the_token(fetch, hub, mirror, monkeypatch):
    """Neither to itself nor to the hub."""
    monkeypatch.setenv("HF_ENDPOINT", f"http://{mirror.address}")
    mirror.plan = [redirects(mirror.url("renamed")), redirects(hub.url(PATH))]
    assert fetch(hub.url(PATH)).exit_code == 0
    assert (tokens(mirror), tokens(hub)) == ([None, None], [None])


def test_a_mirror_that_asks_for_credentials_gets_none(fetch, mirror, monkeypatch):
    """401 with a challenge."""
    monkeypatch.setenv("HF_ENDPOINT", f"http://{mirror.address}")
    mirror.plan = [status(401, **{"WWW-Authenticate": 'Basic realm="x"'})] * 2
    result = fetch(f"https://huggingface.co/{PATH}")
    assert (result.exit_code, "HTTP 401" in result.stdout) == (1, True)
    assert tokens(mirror) == [None]


@pytest.mark.parametrize("code", [401, 403])
def test_a_refusal_of_the_hub_mentions_the_token(fetch, hub, code):
    """A gated repository is the usual reason."""
    hub.plan = [status(code)]
    result = fetch(hub.url(PATH))
    assert result.exit_code == 1
    assert f"models/{NAME}: failed: 127.0.0.1: HTTP {code}" in result.stdout
    assert "set HF_TOKEN if the repository needs a token" in result.stdout


@pytest.mark.parametrize("token", ["hush\nX: y", "hush hush", "hüsh"])
def test_a_token_that_does_not_fit_into_a_header_is_rejected(monkeypatch, token):
    """At the start, without showing it."""
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ValueError, match="HF_TOKEN|hf_token") as caught:
        Settings()
    assert "hush" not in str(caught.value)
