"""models.txt and what fetches its files, against a real HTTP server that behaves as badly as it is told."""

import asyncio
import errno
import fcntl
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from handler.cli import models
from handler.settings import ROOT, Settings
from handler.weights import download, manifest
from handler.weights.download import Fetcher, NotFetched
from handler.weights.manifest import BadList, Entry
from handler.workflow.workflow import ModelFile, build
from tests.loopback import LoopbackServer

SIZE = 300_000
HALF = SIZE // 2
CONTENT = random.Random(1).randbytes(SIZE)
OTHER = random.Random(2).randbytes(SIZE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "checkpoints/a.safetensors"


class Weights(LoopbackServer):
    """Answers each request with the next behaviour of `plan`, and as it should once that is over."""

    def __init__(self):
        self.plan = []
        self.seen = []

    def routes(self):
        return [web.get("/{name:.*}", self.answer)]

    async def answer(self, request):
        self.seen.append(request)
        return await (self.plan.pop(0) if self.plan else plain)(request)

    def url(self, name="a"):
        return f"http://{self.address}/{name}"

    def ranges(self):
        return [request.headers.get("Range") for request in self.seen]


def start_of(request):
    return int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


async def plain(request, content=CONTENT):
    start = start_of(request)
    if "Range" not in request.headers:
        return web.Response(body=content)
    if start >= len(content):
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return web.Response(status=206, body=content[start:], headers={"Content-Range": span})


async def other(request):
    return await plain(request, OTHER)


async def whole(request):
    """Ignores Range."""
    return web.Response(body=CONTENT)


async def wrong_range(request):
    return web.Response(status=206, body=CONTENT, headers={"Content-Range": "bytes 0-299999/300000"})


async def begin(request, announced, sent, content=CONTENT):
    """Sends a head, and the next `sent` bytes of the file."""
    start = start_of(request)
    answer = web.StreamResponse(status=206 if start else 200)
    if start:
        answer.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    if announced is not None:
        answer.content_length = announced
    await answer.prepare(request)
    await answer.write(content[start : start + sent])
    return answer


def truncates(content=CONTENT):
    """Breaks the connection in the middle of what it announced."""

    async def behave(request):
        answer = await begin(request, len(content) - start_of(request), 100_000, content)
        await asyncio.sleep(0.05)  # lets the bytes out
        request.transport.abort()
        return answer

    return behave


async def stalls(request):
    """Says nothing more until the client has gone."""
    answer = await begin(request, SIZE - start_of(request), 100_000)
    for _ in range(1000):
        if request.transport is None or request.transport.is_closing():
            break
        await asyncio.sleep(0.02)
    return answer


async def trickles(request):
    answer = await begin(request, SIZE, 0)
    for place in range(0, 100_000, 1000):
        await asyncio.sleep(0.05)
        await answer.write(CONTENT[place : place + 1000])
    return answer


async def announces_less(request):
    """Says that the file is shorter than it is, and ends there as if all were well."""
    return await begin(request, 100_000, 100_000)


async def announces_more(request):
    """Sends the whole file, says that more will come, and hangs up."""
    answer = await begin(request, SIZE + 1000, SIZE)
    await asyncio.sleep(0.05)
    request.transport.abort()
    return answer


async def never_ends(request):
    answer = await begin(request, None, SIZE)
    for _ in range(200):
        await answer.write(b"more" * 20_000)
    return answer


def status(code, **headers):
    async def behave(_):
        return web.Response(status=code, headers=headers, text="no file at all")

    return behave


def redirects(url):
    async def behave(_):
        return web.Response(status=302, headers={"Location": url})

    return behave


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(download, "WAIT_S", 0.01)
    monkeypatch.setattr(download, "READ_TIMEOUT_S", 0.4)


@pytest.fixture
def server():
    with Weights() as running:
        yield running


@pytest.fixture
def mirror():
    with Weights() as running:
        yield running


def entry(*urls, path=NAME, sha256=SHA256, size_bytes=SIZE, is_rough=False):
    return Entry("sdxl", sha256, size_bytes, is_rough, PurePosixPath(path), urls)


def fetch(models_dir, *entries, hub_url=download.HUB, token=None, troubles=None):
    """Returns what kept each entry from its place, by path."""

    def tell(wanted, text):
        if troubles is not None:
            troubles.append(text)

    fetcher = Fetcher(models_dir, hub_url, token, lambda wanted, size_bytes: None, tell)
    return {str(wanted.path): failure and str(failure) for wanted, failure in fetcher.fetch_all(entries)}


def part_of(models_dir, content):
    """Leaves a part, as an earlier run would."""
    part = models_dir / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


def files(models_dir):
    return sorted(
        str(path.relative_to(models_dir))
        for path in models_dir.rglob("*")
        if path.is_file() and path.name != download.LOCK_NAME
    )


# The list


def line(sha256=SHA256, size="7", path=NAME, url="https://example.com/a"):
    return f"{sha256} {size} {path} {url}"


def test_a_line_has_hash_size_path_and_mirrors():
    """Fields are separated by any blanks; comments and empty lines do not count."""
    text = f"# head\n\n[one]\n{SHA256}\t 7  {NAME} https://example.com/a   http://mirror.example/b\n[two]\n"
    text += line(size="~90", path="b") + "\n"
    first, second = manifest.parse(text)
    assert first == Entry(
        "one", SHA256, 7, False, PurePosixPath(NAME), ("https://example.com/a", "http://mirror.example/b")
    )
    assert (second.section, second.is_rough, second.size_bytes, second.most_bytes) == ("two", True, 90, 112)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (line(sha256="abc"), "sha256 must be 64 hexadecimal digits"),
        (line(sha256=SHA256.upper()), "sha256 must be"),
        (line(size="-7"), "size must be a number of bytes"),
        (line(size="0"), "size must be"),
        (line(size="7e9"), "size must be"),
        (line(size="\u0667"), "size must be"),
        (line(path="/etc/passwd"), "path must be names below models/"),
        (line(path="../a"), "path must be"),
        (line(path="loras/../../a"), "path must be"),
        (line(path="loras//a"), "path must be"),
        (line(path="loras/"), "path must be"),
        (line(path="./a"), "path must be"),
        (line(path="C:\\a"), "path must be"),
        (line(path="~root/a"), "path must be"),
        (line(path=NAME.upper()), "is in line 2 already"),
        (line(url="ftp://example.com/a"), "URL must begin with http:// or https://"),
        (line(url="file:///etc/passwd"), "URL must begin"),
        (line(url="https://"), "URL must begin"),
        (line(url="https://example.com:x/a"), "is none"),
        (f"{SHA256} 7 b", "must have sha256, size, path and URL, got 3 fields"),
        ("[two", "a section must be"),
        ("[Two]", "a section must be"),
        ("[two] # extras", "a section must be"),
    ],
)
def test_a_wrong_line_is_named(wrong, reason):
    """The fault says which line it is in and what was expected."""
    with pytest.raises(BadList, match=r"^models\.txt: line 3: ") as caught:
        manifest.parse(f"[one]\n{line()}\n{wrong}\n")
    assert reason in str(caught.value)


def test_all_faults_are_told_at_once():
    """Two wrong lines are two faults in one message."""
    with pytest.raises(BadList, match=r"line 1: stands before the first \[section\]; line 3: size must be"):
        manifest.parse(f"{line()}\n[one]\n{line(size='x')}\n")


@given(st.lists(st.text("./\\~aC:\0 \u2028"), min_size=1))
def test_no_list_names_a_place_outside(names):
    """Whatever stands there as path: either it is refused, or it is below the models folder."""
    folder = Path("/somewhere/models")
    try:
        found = manifest.parse("[one]\n" + "\n".join(line(path=name) for name in names))
    except BadList:
        return
    assert all(Path(os.path.normpath(each.place(folder))).is_relative_to(folder) for each in found)


def test_a_list_that_cannot_be_read_says_so(tmp_path):
    """Missing, or no text."""
    with pytest.raises(BadList, match="models.txt cannot be read: No such file"):
        manifest.read(tmp_path / "models.txt")
    (tmp_path / "models.txt").write_bytes(b"\xff")
    with pytest.raises(BadList, match="is not UTF-8"):
        manifest.read(tmp_path / "models.txt")


def test_an_unknown_section_is_a_mistake():
    """The message has those that there are."""
    with pytest.raises(BadList, match="has no section tiny, expected one"):
        manifest.of_sections(manifest.parse(f"[one]\n{line()}"), ["one", "tiny"])


def stored_models(profile="sdxl"):
    def stored(name):
        return json.loads((ROOT / "workflows" / name).read_text("utf-8"))

    overrides = {} if profile == "sdxl" else stored(f"profiles/{profile}.json")
    graph, params = stored("txt2img_alpha.json"), stored("txt2img_alpha.params.json")
    return set(build("txt2img_alpha", graph, params, profile, overrides).models)


def test_the_list_has_what_the_stored_workflow_needs():
    """The section sdxl is the workflow's files, in their folders and under their names, and nothing else."""
    listed = manifest.of_sections(manifest.read(ROOT / "models.txt"), [manifest.DEFAULT_SECTION])
    assert {ModelFile(str(each.path.parent), each.path.name) for each in listed} == stored_models()


def test_no_tiny_weight_is_listed():
    """They are in git, which has its own hashes."""
    listed = {str(each.path) for each in manifest.read(ROOT / "models.txt")}
    assert listed.isdisjoint(f"{file.folder}/{file.name}" for file in stored_models("tiny"))


def test_the_list_s_addresses_do_not_move():
    """Each file of the hub is named by a revision, in the folder-less form that the hub serves."""
    for each in manifest.read(ROOT / "models.txt"):
        assert all(PurePosixPath(url).name == each.path.name for url in each.urls)
        revisions = [url.split("/resolve/")[1].split("/")[0] for url in each.urls if url.startswith(download.HUB)]
        assert all(len(revision) == 40 for revision in revisions), each


# Fetching


def test_a_file_is_fetched(server, tmp_path):
    """It is in its place, nothing else is left, and a second call asks nobody."""
    for _ in range(2):
        assert fetch(tmp_path / "models", entry(server.url())) == {NAME: None}
    assert (tmp_path / "models" / NAME).read_bytes() == CONTENT
    assert files(tmp_path / "models") == [NAME]
    assert len(server.seen) == 1


def test_files_are_fetched_side_by_side(server, tmp_path, monkeypatch):
    """No request waits for another to end."""
    monkeypatch.setattr(download, "READ_TIMEOUT_S", 10.0)
    both_there = asyncio.Barrier(2)

    async def waits_for_the_other(request):
        async with asyncio.timeout(5), both_there:
            return await plain(request)

    server.plan = [waits_for_the_other] * 2
    assert fetch(tmp_path, entry(server.url("a"), path="a"), entry(server.url("b"), path="b")) == {"a": None, "b": None}
    assert len(server.seen) == 2


def test_one_failure_does_not_end_the_others(server, tmp_path):
    """Each file has an outcome of its own."""
    server.plan = [status(404)]
    found = fetch(tmp_path, entry(server.url(), path="a"), entry(server.url(), path="b"))
    assert sorted(found.values(), key=str) == ["127.0.0.1: HTTP 404 Not Found", None]


def test_a_part_is_resumed(server, tmp_path):
    """Only what is missing is asked for; the hash covers both."""
    part_of(tmp_path, CONTENT[:HALF])
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert server.ranges() == [f"bytes={HALF}-"]
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_whole_part_takes_its_place(server, tmp_path):
    """A run that was stopped before the last step needs no server."""
    part_of(tmp_path, CONTENT)
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert (server.seen, files(tmp_path)) == ([], [NAME])


@pytest.mark.parametrize("left", [OTHER[:HALF], OTHER, OTHER + OTHER], ids=["half", "whole", "too long"])
def test_a_part_of_something_else_is_thrown_away(server, tmp_path, left):
    """What does not fit is fetched once from the beginning."""
    part_of(tmp_path, left)
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert server.ranges() == [f"bytes={len(left)}-", None]
    assert (tmp_path / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize(("behaviour", "requests"), [(whole, 1), (wrong_range, 2)])
def test_a_server_without_ranges_sends_all_of_it(server, tmp_path, behaviour, requests):
    """Range ignored, or answered with another range: the part is not continued with what does not follow it."""
    part_of(tmp_path, CONTENT[:HALF])
    server.plan = [behaviour]
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert len(server.seen) == requests
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_page_of_excuses_does_not_cost_the_part(server, tmp_path):
    """200 with another length, as from a proxy, is not the file: the part stays and is resumed."""
    part_of(tmp_path, CONTENT[:HALF])
    server.plan = [status(200)]
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert server.ranges() == [f"bytes={HALF}-"] * 2


@pytest.mark.parametrize("behaviour", [truncates(), stalls, announces_less])
def test_what_breaks_off_goes_on(server, tmp_path, behaviour):
    """Cut connections, silence and short answers are resumed where they ended, and told."""
    server.plan = [behaviour, behaviour]
    troubles = []
    assert fetch(tmp_path, entry(server.url()), troubles=troubles) == {NAME: None}
    assert server.ranges() == [None, "bytes=100000-", "bytes=200000-"]
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert len(troubles) == 2


def test_a_trickle_is_a_stall(server, tmp_path, monkeypatch):
    """A server that sends just enough to keep the connection open is asked anew."""
    monkeypatch.setattr(download, "WINDOW_S", 0.2)
    monkeypatch.setattr(download, "SLOW_BYTES_PER_S", 1_000_000)
    server.plan = [trickles]
    troubles = []
    assert fetch(tmp_path, entry(server.url()), troubles=troubles) == {NAME: None}
    assert len(server.seen) == 2
    assert "bytes in" in troubles[0]


def test_a_whole_file_is_taken_whatever_was_announced(server, tmp_path):
    """More was promised than there is: the hash says that nothing is missing."""
    server.plan = [announces_more]
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert len(server.seen) == 1


@pytest.mark.parametrize("is_rough", [False, True])
def test_no_more_is_taken_than_the_file_can_have(server, tmp_path, is_rough):
    """An endless answer is left as soon as it is too long, and nothing of it stays."""
    server.plan = [never_ends] * 2
    wanted = entry(server.url(), is_rough=is_rough)
    assert fetch(tmp_path, wanted) == {NAME: f"127.0.0.1: has more than {wanted.most_bytes} bytes"}
    assert files(tmp_path) == []


def test_a_file_that_changes_meanwhile_is_fetched_anew(server, tmp_path):
    """The first half of one version and the second of another: once more from the beginning."""
    server.plan = [truncates(OTHER)]
    troubles = []
    assert fetch(tmp_path, entry(server.url()), troubles=troubles) == {NAME: None}
    assert server.ranges() == [None, "bytes=100000-", None]
    assert "once more from the beginning" in troubles[1]


def test_a_wrong_file_says_both_hashes(server, tmp_path):
    """What came in one piece is not asked for again; nothing of it stays, and what was there before does."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / NAME).write_bytes(b"an older version")
    server.plan = [other] * 3
    found = fetch(tmp_path, entry(server.url()))[NAME]
    assert found == f"127.0.0.1: has sha256 {hashlib.sha256(OTHER).hexdigest()}, expected {SHA256}"
    assert len(server.seen) == 1
    assert files(tmp_path) == [NAME]
    assert (tmp_path / NAME).read_bytes() == b"an older version"


def test_a_wrong_file_is_tried_twice_at_most(server, tmp_path):
    """Resumed, then from the beginning, then it is an error."""
    part_of(tmp_path, CONTENT[:HALF])
    server.plan = [other] * 9
    assert "expected" in fetch(tmp_path, entry(server.url()))[NAME]
    assert (server.ranges(), files(tmp_path)) == ([f"bytes={HALF}-", None], [])


def test_a_file_of_the_wrong_size_is_replaced(server, tmp_path):
    """By the right one, once that is whole."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_file_of_the_right_size_counts_as_there(server, tmp_path):
    """Fetching does not read it; verifying does."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / NAME).write_bytes(OTHER)
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert server.seen == []


@pytest.mark.parametrize(("content", "requests"), [(CONTENT, 0), (OTHER, 1)])
def test_a_file_without_exact_size_is_known_by_its_hash(server, tmp_path, content, requests):
    """Where the list has a rough size only, that of a file says nothing."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / NAME).write_bytes(content)
    assert fetch(tmp_path, entry(server.url(), size_bytes=290_000, is_rough=True)) == {NAME: None}
    assert len(server.seen) == requests
    assert (tmp_path / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(server, tmp_path, code):
    """Such statuses pass."""
    server.plan = [status(code)] * 2
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert len(server.seen) == 3


def test_a_server_says_when_to_come_back(server, tmp_path):
    """Retry-After is waited for."""
    server.plan = [status(429, **{"Retry-After": "1"})]
    start_s = time.monotonic()
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert time.monotonic() - start_s >= 1


def test_nobody_is_asked_for_ever(server, tmp_path):
    """After the last try the error has the server's own words; the part stays for the next run."""
    part = part_of(tmp_path, CONTENT[:HALF])
    server.plan = [status(503)] * 99
    assert fetch(tmp_path, entry(server.url())) == {NAME: "127.0.0.1: HTTP 503 Service Unavailable"}
    assert len(server.seen) == download.TRIES
    assert part.read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_final(server, tmp_path, code):
    """One try, and no empty file of it."""
    server.plan = [status(code)] * 9
    assert f"HTTP {code}" in fetch(tmp_path, entry(server.url()))[NAME]
    assert (len(server.seen), files(tmp_path)) == (1, [])


@pytest.mark.parametrize("bad", [status(404), other, never_ends, status(500)])
def test_a_mirror_helps_out(server, mirror, tmp_path, monkeypatch, bad):
    """Where the first address does not have the file, the next one is asked."""
    monkeypatch.setattr(download, "TRIES", 2)
    server.plan = [bad] * 9
    assert fetch(tmp_path, entry(server.url(), mirror.url())) == {NAME: None}
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_mirror_goes_on_with_the_part(server, mirror, tmp_path, monkeypatch):
    """What the first address gave is not asked for again."""
    monkeypatch.setattr(download, "TRIES", 1)
    server.plan = [truncates()]
    assert fetch(tmp_path, entry(server.url(), mirror.url())) == {NAME: None}
    assert mirror.ranges() == ["bytes=100000-"]


def test_when_all_mirrors_fail_each_is_named(server, mirror, tmp_path):
    """The message has every address's reason."""
    server.plan, mirror.plan = [status(404)], [status(403)]
    found = fetch(tmp_path, entry(server.url(), mirror.url()))[NAME]
    assert found == "127.0.0.1: HTTP 404 Not Found; 127.0.0.1: HTTP 403 Forbidden"


def test_nobody_there_is_an_error(server, tmp_path):
    """A refused connection is tried again, then told."""
    with Weights() as gone:
        address = gone.url()
    assert "refused" in fetch(tmp_path, entry(address))[NAME]


@pytest.mark.parametrize("target", ["ftp://example.com/a", "http://[", "self"])
def test_a_redirect_to_nowhere_is_an_error(server, tmp_path, target):
    """Another scheme, no address at all, or a circle."""
    server.plan = [redirects(server.url() if target == "self" else target)] * 99
    assert fetch(tmp_path, entry(server.url()))[NAME]
    assert files(tmp_path) == []


# Who is told what


def test_the_token_goes_to_the_hub_alone(server, mirror, tmp_path, monkeypatch):
    """The hub sees it; the server that it redirects to does not, and the range is asked of both."""
    monkeypatch.setattr(download, "HUB", f"http://{server.address}")
    part_of(tmp_path, CONTENT[:HALF])
    server.plan = [redirects(server.url("renamed")), redirects(mirror.url())]
    assert fetch(tmp_path, entry(server.url()), hub_url=download.HUB, token="hush") == {NAME: None}
    assert [request.headers.get("Authorization") for request in server.seen] == ["Bearer hush"] * 2
    assert ["Authorization" in request.headers for request in mirror.seen] == [False]
    assert mirror.ranges() == [f"bytes={HALF}-"]


def test_the_token_goes_to_no_other_address(server, tmp_path):
    """A mirror in the list does not see it."""
    assert fetch(tmp_path, entry(server.url()), token="hush") == {NAME: None}
    assert "Authorization" not in server.seen[0].headers


def test_the_hub_can_be_replaced(server, tmp_path):
    """HF_ENDPOINT stands in place of the hub's address, and is told no token; other addresses stay."""
    wanted = entry(f"{download.HUB}/o/r/resolve/1/a")
    assert fetch(tmp_path, wanted, hub_url=f"http://{server.address}/hub/", token="hush") == {NAME: None}
    assert server.seen[0].path == "/hub/o/r/resolve/1/a"
    assert "Authorization" not in server.seen[0].headers


@pytest.mark.parametrize("token", ["hush\nX: y", "hush hush", "hüsh"])
def test_a_token_that_fits_into_no_header_is_refused(monkeypatch, token):
    """At the start, and without showing it."""
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ValueError, match="ASCII without blanks") as caught:
        Settings()
    assert "hush" not in str(caught.value)


def test_the_environment_s_proxy_is_used(server, tmp_path, monkeypatch):
    """http_proxy, as everywhere."""
    monkeypatch.setenv("http_proxy", f"http://{server.address}")
    assert fetch(tmp_path, entry("http://weights.example/a")) == {NAME: None}
    assert server.seen[0].headers["Host"] == "weights.example"


def test_a_proxy_that_makes_no_sense_is_an_error(tmp_path, monkeypatch):
    """Before anything is asked."""
    monkeypatch.setenv("http_proxy", "gopher://example.com")
    with pytest.raises(NotFetched, match="proxy"):
        fetch(tmp_path)


# The disk


def test_room_is_checked_first(server, tmp_path, monkeypatch):
    """For all files together, less what is there of them; nothing is asked where it does not suffice."""
    part_of(tmp_path, CONTENT[:HALF])
    wanted = entry(server.url()), entry(server.url(), path="b")
    needed = SIZE + SIZE - HALF
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(NotFetched, match="450,000 bytes are still to come, 449,999 are free"):
        fetch(tmp_path, *wanted)
    assert server.seen == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    assert set(fetch(tmp_path, *wanted).values()) == {None}


def test_a_full_disk_is_an_error(server, tmp_path, monkeypatch):
    """What could be written stays for the next time."""
    counter = itertools.count()
    write = download.Part.write

    def full(self, chunk):
        if next(counter) >= 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, chunk)

    monkeypatch.setattr(download.Part, "write", full)
    assert fetch(tmp_path, entry(server.url())) == {NAME: "cannot be written: No space left on device"}
    assert files(tmp_path) == [f"{NAME}.part"]


def test_two_programs_do_not_mix(server, tmp_path):
    """The second one is told at once: parts that two append to would be broken."""
    with (tmp_path / download.LOCK_NAME).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(NotFetched, match="another program is fetching"):
            fetch(tmp_path, entry(server.url()))
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    """A file in its place."""
    (tmp_path / "models").touch()
    with pytest.raises(NotFetched, match="cannot be written: File exists"):
        fetch(tmp_path / "models")


# The commands


@pytest.fixture
def run(tmp_path, server, monkeypatch):
    """Runs `models …` on a list of one file in sdxl and one in extra."""
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("MODELS_FILE", str(tmp_path / "models.txt"))
    listed = f"[sdxl]\n{line(size=SIZE, url=server.url())}\n[extra]\n"
    (tmp_path / "models.txt").write_text(listed + line(size="~290000", path="loras/b", url=server.url()))
    return lambda *arguments: CliRunner().invoke(models.app, arguments)


def test_fetch_then_verify(run, tmp_path):
    """Both are about the section sdxl, and exit with 0."""
    for command, said in (("fetch", "is there"), ("verify", "is right")):
        result = run(command)
        assert (result.exit_code, result.stdout) == (0, f"models/{NAME} {said}\n")
    assert files(tmp_path / "models") == [NAME]


def test_sections_can_be_named(run, tmp_path):
    """Both, in one call."""
    assert run("fetch", "sdxl", "extra").exit_code == 0
    assert files(tmp_path / "models") == [NAME, "loras/b"]
    assert run("verify", "extra").stdout == "models/loras/b is right\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        (CONTENT[:-1], "has 299999 bytes, expected 300000"),
        (OTHER, f"has sha256 {hashlib.sha256(OTHER).hexdigest()}, expected {SHA256}"),
    ],
)
def test_verify_finds_what_is_wrong(run, server, tmp_path, content, said):
    """Exit status 1, the reason, no request, and the file stays as it is."""
    place = tmp_path / "models" / NAME
    if content is not None:
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
    result = run("verify")
    assert (result.exit_code, result.stdout) == (1, f"models/{NAME} {said}\n")
    assert server.seen == []
    assert content is None or place.read_bytes() == content


def test_list_shows_what_is_there(run, server, tmp_path):
    """Every section, by sizes, without a request."""

    def states():
        return [line.split("  ", 1)[1].strip().split("  ")[0] for line in run("list").stdout.splitlines()]

    assert states() == ["missing", "missing"]
    part_of(tmp_path / "models", CONTENT[:HALF])
    assert states() == ["50 % fetched", "missing"]
    (tmp_path / "models" / NAME).write_bytes(b"x")
    assert states() == ["wrong size", "missing"]
    (tmp_path / "models" / NAME).write_bytes(CONTENT)
    assert states() == ["here", "missing"]
    assert server.seen == []


def test_a_failed_fetch_exits_with_1(run, server):
    """And says why."""
    server.plan = [status(404)]
    result = run("fetch")
    assert (result.exit_code, result.stdout) == (1, f"models/{NAME} is not fetched: 127.0.0.1: HTTP 404 Not Found\n")


def test_too_little_room_exits_with_1(run, monkeypatch):
    """And says so."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5))
    result = run("fetch")
    assert (result.exit_code, "5 are free" in result.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [("fetch", "tiny"), ("verify", "tiny"), ("fetch", "--fast"), ("remove",)])
def test_wrong_usage_exits_with_2(run, arguments):
    """An unknown section, option or command."""
    assert run(*arguments).exit_code == 2


def test_a_wrong_list_exits_with_2(run, tmp_path):
    """With the line."""
    (tmp_path / "models.txt").write_text("[sdxl]\nx\n")
    result = run("list")
    assert (result.exit_code, "line 2" in result.stderr) == (2, True)


def test_ctrl_c_leaves_a_part_to_go_on_with(run, server, tmp_path):
    """The program ends at once, although the server stalls; the next call asks for the rest."""
    server.plan = [stalls]
    # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heeded}; from handler.cli.models import app; app(['fetch'])"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    part = tmp_path / "models" / f"{NAME}.part"
    end_s = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size >= 90_000) and time.monotonic() < end_s:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(5) != 0
    finally:
        process.kill()
        process.wait()
    size_bytes = part.stat().st_size
    assert part.read_bytes() == CONTENT[:size_bytes]
    assert run("fetch").exit_code == 0
    assert server.ranges() == [None, f"bytes={size_bytes}-"]
