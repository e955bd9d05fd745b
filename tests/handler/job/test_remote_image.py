"""Input pictures that a request names by URL, fetched from real HTTPS servers on this machine."""

import base64
import contextlib
import http.server
import io
import ipaddress
import socket
import ssl
import subprocess
import threading
import time

import pytest
from PIL import Image

from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.errors import InvalidInput, JobCancelled, JobTimeout, NotTransparent
from handler.job import profiles, remote_image
from handler.job.generate import Generator
from handler.job.image_check import MAX_BYTES, BadImage
from handler.job.remote_image import RemoteImages, is_public
from handler.job.runner import Job, Runner
from handler.settings import Settings


def png(width=8, height=8):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "PNG")
    return buffer.getvalue()


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers each path as its name says."""

    def do_GET(self):
        self.server.seen.append(self.path)
        match self.path.split("/")[1:]:
            case ["picture"]:
                self.answer(200, png())
            case ["to", *target]:
                self.answer(302, b"", Location="/".join(target))
            case ["again"]:
                self.answer(302, b"", Location="/again")
            case ["text"]:
                self.answer(200, b"<html>")
            case ["nowhere"]:
                self.answer(302, b"")
            case ["large"]:
                self.answer(200, bytes(MAX_BYTES + 1))
            case ["slow"]:
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while not self.server.stopped.wait(0.05):
                        self.wfile.write(b"x")
            case _:
                self.answer(404, b"")

    def answer(self, status, content, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost, signed by itself, and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *subject]
    subprocess.run([*command, "-keyout", path, "-out", path.with_suffix(".crt")], check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


@pytest.fixture(scope="module")
def server(certificate):
    """An HTTPS server on 127.0.0.1."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.seen, server.stopped = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def url(server):
    server.seen.clear()
    return f"https://localhost:{server.server_port}"


@pytest.fixture
def images(certificate):
    """Fetches pictures from this machine, too, and trusts its certificate."""
    return RemoteImages(lambda _: True, ssl.create_default_context(cafile=certificate.with_suffix(".crt")))


def fault(images, url):
    with pytest.raises(BadImage) as caught:
        images.fetch(url, Deadline(5))
    return str(caught.value)


def test_a_picture_is_fetched(images, url):
    """The name is looked up, the certificate is checked against it, and the whole content arrives."""
    assert images.fetch(f"{url}/picture", Deadline(5)) == png()


SETTINGS = Settings(profile="tiny", workflow="foreground_on_background", fetch_images=True)


def request_with(picture):
    """Returns the arguments of RemoteImages.fetched."""
    workflow = profiles.load(SETTINGS)
    return workflow.parse({"prompt": "x", "background_image": picture}), workflow.parameters, Deadline(5)


def test_a_request_gets_its_pictures(images, url):
    """As base64 text in place of the URL; one that came as text stays as it is."""
    expected = base64.b64encode(png()).decode()
    for given in (f"{url}/picture", expected):
        assert images.fetched(*request_with(given)).values["background_image"] == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/text", "background_image is not a picture in one of the formats PNG, JPEG, WEBP"),
        ("/missing", "background_image cannot be fetched: the server answered with status 404"),
    ],
)
def test_a_url_without_a_picture_is_the_callers_mistake(images, url, path, expected):
    """The job fails with invalid_input."""
    with pytest.raises(InvalidInput) as caught:
        images.fetched(*request_with(url + path))
    assert caught.value.details == (expected,)


def test_several_pictures_fetch_it_once(images, url, monkeypatch):
    """All of a job's pictures have the same input, even if what the URL leads to changes."""
    generator = Generator(profiles.load(SETTINGS), ComfyProcess(SETTINGS), SETTINGS, images)
    fetched, drawn = [], []
    fetch = images.fetch
    monkeypatch.setattr(images, "fetch", lambda *given: fetched.append(given) or fetch(*given))

    def draw(planned, *_):
        drawn.append(planned.request.values["background_image"])
        raise NotTransparent("opaque")

    monkeypatch.setattr(generator, "draw", draw)
    request = generator.parse({"prompt": "x", "background_image": f"{url}/picture", "num_images": 3})
    with pytest.raises(NotTransparent):
        Runner(generator).run(Job("1", request), Deadline(5))
    assert len(fetched) == 1
    assert drawn == [base64.b64encode(png()).decode()] * 3


def test_redirects_are_followed(images, url):
    """To the same server, and to a whole URL, up to three times."""
    assert images.fetch(f"{url}/to//to/{url}/to//picture", Deadline(5)) == png()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/missing", "cannot be fetched: the server answered with status 404"),
        ("/nowhere", "cannot be fetched: the server answered with status 302"),
        ("/again", "cannot be fetched: there were more than 3 redirects"),
        ("/to/http://localhost/picture", "cannot be fetched: it leads to a URL that is not https"),
        ("/to/file:///etc/passwd", "cannot be fetched: it leads to a URL that is not https"),
        ("/to/https://user@localhost/", "cannot be fetched: a URL must not contain a user or password"),
        ("/large", f"has more than {MAX_BYTES} bytes"),
    ],
)
def test_what_is_no_picture_is_refused(images, url, path, expected):
    """The message says why."""
    assert fault(images, url + path) == expected


def test_this_machine_is_not_reached(server, url, certificate):
    """By default a name that stands for a private address is refused before there is a connection."""
    images = RemoteImages(certificates=ssl.create_default_context(cafile=certificate.with_suffix(".crt")))
    assert fault(images, f"{url}/picture") == "cannot be fetched: localhost is not a public host"
    assert server.seen == []


def test_a_redirect_to_this_machine_is_not_followed(server, url, certificate):
    """The first server may be public; the address that it sends us to is checked again."""
    allowed = iter([True, True, False])
    context = ssl.create_default_context(cafile=certificate.with_suffix(".crt"))
    images = RemoteImages(lambda _: next(allowed), context)
    other = f"https://127.0.0.1:{server.server_port}"
    assert fault(images, f"{url}/to/{other}/picture") == "cannot be fetched: 127.0.0.1 is not a public host"
    assert server.seen == [f"/to/{other}/picture"]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0.0.0.0",  # noqa: S104 -- to be refused
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "[2002:7f00:1::]",
        "[64:ff9b::10.0.0.1]",
        "[ff02::1]",
    ],
)
def test_a_private_address_is_refused_however_it_is_written(monkeypatch, host):
    """Also the cloud's metadata service, numbers instead of dots, and IPv4 within IPv6; no connection is tried."""
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
    assert fault(RemoteImages(), f"https://{host}/").endswith("is not a public host")


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_allowed(address):
    """Those of IPv4, of IPv6, and of IPv4 behind a network that only has IPv6."""
    assert is_public(ipaddress.ip_address(address))


def test_one_private_address_of_several_is_enough_to_refuse_a_name(monkeypatch):
    """A name can stand for a public and a private address at once."""
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in ("1.1.1.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
    assert fault(RemoteImages(), "https://pictures.example/") == (
        "cannot be fetched: pictures.example is not a public host"
    )


def test_a_name_is_looked_up_once(images, url, monkeypatch):
    """The connection goes to the address that was checked, so a second answer of the name server does not matter."""
    real, calls = socket.getaddrinfo, []

    def look_up(host, *arguments, **options):
        calls.append(host)
        return real(host if host != "localhost" or len(calls) == 1 else "192.0.2.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert images.fetch(f"{url}/picture", Deadline(5)) == png()
    assert calls.count("localhost") == 1


def test_another_certificate_is_refused(server, url):
    """The server must be the one that the URL names."""
    assert "CERTIFICATE_VERIFY_FAILED" in fault(RemoteImages(lambda _: True), f"{url}/picture")


@pytest.mark.parametrize(
    "bad", ["https://", "https://[", "https://a b/", "https://nowhere.invalid/", "https://x:99999/"]
)
def test_a_bad_url_is_refused(bad):
    """Not an error of ours."""
    assert fault(RemoteImages(), bad).startswith("cannot be fetched")


def test_a_slow_server_is_given_up(images, url, monkeypatch):
    """Also if it sends a byte every now and then."""
    monkeypatch.setattr(remote_image, "TIMEOUT_S", 0.3)
    started_s = time.monotonic()
    assert fault(images, f"{url}/slow") == "cannot be fetched: no complete answer within 0.3 s"
    assert time.monotonic() - started_s < 3


def test_the_jobs_own_time_counts(images, url):
    """A cancelled job, or one whose time is up, does not wait for its picture."""
    deadline = Deadline(5)
    timer = threading.Timer(0.2, deadline.cancel)
    timer.start()
    with pytest.raises(JobCancelled):
        images.fetch(f"{url}/slow", deadline)
    timer.join()
    with pytest.raises((BadImage, JobTimeout)):
        images.fetch(f"{url}/slow", Deadline(0.3))
