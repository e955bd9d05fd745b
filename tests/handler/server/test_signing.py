"""Signed picture URLs and webhooks, over a scripted generator."""

import base64
import json
import re
import runpy
import stat
import urllib.parse
from pathlib import Path

import pytest
from aiohttp import web
from calls import JOBS, TXT2IMG, error, submit, until, when
from loopback import LoopbackServer
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from handler.errors import StorageUnavailable
from handler.server import webhooks
from handler.server.signing import UrlSigner, WebhookSigner
from handler.settings import Settings

KEY = {"Authorization": "Bearer first"}
ROOT = Path(__file__).parents[3]
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Receiver(LoopbackServer):
    """Keeps what it receives, and refuses the first `refusals` posts."""

    def __init__(self, refusals=0):
        self.refusals = refusals
        self.received = []

    def routes(self):
        return [web.post("/", self.listen)]

    async def listen(self, request):
        self.received.append((dict(request.headers), await request.read()))
        return web.Response(status=500 if len(self.received) <= self.refusals else 200)


def test_a_receiver_verifies_a_webhook(make, monkeypatch):
    """With the scheme's own library and the stored secret; each attempt has the same id, and a forged body fails."""
    monkeypatch.setattr(webhooks, "WEBHOOK_WAIT_S", 0.05)
    client = make()
    with Receiver(refusals=1) as receiver:
        job_id = submit(client, webhook=f"http://{receiver.address}/")
        job = when(client, job_id, "COMPLETED")
        until(lambda: len(receiver.received) == 2)
    stored = client.service.settings.data_dir / "webhook_secret"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    verifier = Webhook(stored.read_text().strip())
    for headers, body in receiver.received:
        assert headers["Content-Type"] == "application/json"
        assert verifier.verify(body, headers) == job
        with pytest.raises(WebhookVerificationError):
            verifier.verify(body.replace(b"COMPLETED", b"CANCELLED"), headers)
    first, second = (headers["webhook-id"] for headers, _ in receiver.received)
    assert first == second
    assert first.startswith(job_id)


def test_the_documented_receiver_works(make, tmp_path, monkeypatch, capsys):
    """The code in docs/server.md takes a real webhook, and refuses a forged one."""
    client = make(data_dir=tmp_path / ".data")
    with Receiver() as receiver:
        job_id = submit(client, webhook=f"http://{receiver.address}/")
        until(lambda: receiver.received)
    ((headers, body),) = receiver.received
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(
        r"```python\n(from pathlib import Path\nfrom flask.*?)```",
        (ROOT / "docs/server.md").read_text("utf-8"),
        re.DOTALL,
    )
    (tmp_path / "receiver.py").write_text(code)
    app = runpy.run_path("receiver.py")["app"]
    site = app.test_client()
    assert site.post("/pictures", data=body, headers=headers).status_code == 200
    assert capsys.readouterr().out.split() == [job_id, "COMPLETED"]
    app.testing = True  # raises instead of answering 500
    with pytest.raises(WebhookVerificationError):
        site.post("/pictures", data=body + b" ", headers=headers)


def test_the_secret_can_be_set(make):
    """Then none is stored, and each result of a retried job is another message."""
    client = make(webhook_secret=SECRET)
    with Receiver() as receiver:
        job_id = submit(client, "fail once", webhook=f"http://{receiver.address}/")
        when(client, job_id, "FAILED")
        until(lambda: len(receiver.received) == 1)
        client.post(f"{JOBS}/retry/{job_id}")
        when(client, job_id, "COMPLETED")
        until(lambda: len(receiver.received) == 2)
    statuses = [Webhook(SECRET).verify(body, headers)["status"] for headers, body in receiver.received]
    assert statuses == ["FAILED", "COMPLETED"]
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 2
    assert not (client.service.settings.data_dir / "webhook_secret").exists()


@pytest.mark.parametrize("secret", ["hush-hush", "whsec_", "whsec_AAAA", "whsec_" + "A" * 99, SECRET.replace("_", "-")])
def test_other_secrets_are_refused(secret):
    """The message says what is expected, and does not repeat the secret."""
    with pytest.raises(ValidationError, match="whsec_ and 24 to 64 bytes in base64") as caught:
        Settings(webhook_secret=secret)
    assert secret == "whsec_" or secret not in str(caught.value)


def test_a_pictures_url_works_without_a_key(make):
    """In txt2img, for each of several pictures, and in OpenAI's API; only for that picture."""
    client = make(api_keys="first,second")
    made = client.post(TXT2IMG, headers=KEY, json={"prompt": "x", "num_images": 2}).json()
    request = {"prompt": "x", "response_format": "url"}
    other = client.post("/v1/images/generations", headers=KEY, json=request).json()["data"][0]["url"]
    for url in (made["url"], made["images"][1]["url"], other):
        assert client.get(url).content == client.painter.png
        assert client.head(url).status_code == 200
    first, second = (urllib.parse.urlsplit(entry["url"]) for entry in made["images"])
    assert error(client.get(f"{second.path}?{first.query}"))[:2] == (401, "unauthorized")
    assert error(client.get(f"/alpha/v1/jobs?{first.query}"))[:2] == (401, "unauthorized")
    assert client.get(first.path, headers=KEY).status_code == 200
    assert "?" not in make(api_keys=None).post(TXT2IMG, json={"prompt": "x"}).json()["url"]


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        ("signature=[0-9a-f]+", ""),
        ("signature=.", "signature="),
        ("signature=[0-9a-f]+", "signature=%C3%A9"),
        ("expires=[0-9]+", "expires=99999999999"),
        ("expires=", "expires=0"),
        ("expires=[0-9]+", "expires=\u00b2"),
        ("expires=[0-9]+", "expires=" + "9" * 5000),
        (".*", "&" * 1000),
        (".*", ""),
    ],
)
def test_a_changed_url_does_not_work(make, pattern, replacement):
    """Whatever is changed in it."""
    client = make(api_keys="first")
    url = client.post(TXT2IMG, headers=KEY, json={"prompt": "x"}).json()["url"]
    path, _, query = url.partition("?")
    changed = re.sub(pattern, replacement, query, count=1)
    assert error(client.get(f"{path}?{changed}"))[:2] == (401, "unauthorized")


def test_a_url_expires():
    """When the picture does."""
    now_s = [1000.0]
    signer = UrlSigner("k" * 16, 60.0, lambda: now_s[0])
    query = signer.query("a.png").encode()
    now_s[0] = 1059.0
    assert signer.is_valid("a.png", query)
    assert not signer.is_valid("b.png", query)
    assert not UrlSigner("l" * 16, 60.0, lambda: now_s[0]).is_valid("a.png", query)
    now_s[0] = 1060.0
    assert not signer.is_valid("a.png", query)


def test_keys_outlive_the_program(tmp_path):
    """A URL and a secret are good after a restart; another server has others; a key can be set."""
    settings = Settings(data_dir=tmp_path)
    query = UrlSigner.of(settings).query("a.png").encode()
    assert UrlSigner.of(settings).is_valid("a.png", query)
    signed = WebhookSigner.of(settings).headers("id", b"{}", 7.0)
    assert WebhookSigner.of(settings).headers("id", b"{}", 7.0) == signed
    other = tmp_path / "other"
    other.mkdir()
    assert not UrlSigner.of(Settings(data_dir=other)).is_valid("a.png", query)
    own = Settings(data_dir=tmp_path / "none", picture_url_key="0123456789abcdef")
    assert UrlSigner.of(own).is_valid("a.png", UrlSigner.of(own).query("a.png").encode())


def test_a_key_file_that_cannot_be_used_stops_the_start(tmp_path):
    """With its name."""
    (tmp_path / "picture_url_key").mkdir()
    with pytest.raises(StorageUnavailable, match="picture_url_key in DATA_DIR cannot be used"):
        UrlSigner.of(Settings(data_dir=tmp_path))


def test_the_documented_signature():
    """The scheme's own example of a message, as its library signs it."""
    body = json.dumps({"test": 2432232314}).encode()
    headers = WebhookSigner(SECRET).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", body, 1614265330.9)
    assert headers["webhook-timestamp"] == "1614265330"
    assert re.fullmatch(r"v1,[A-Za-z0-9+/]{43}=", headers["webhook-signature"])
