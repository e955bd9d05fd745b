"""Downloads, against a real HTTP server that misbehaves."""

import asyncio
import errno
import fcntl
import hashlib
import itertools
import shutil
import time

import pytest
from weight_server import (
    CONTENT,
    HALF,
    NAME,
    OTHER,
    SHA256,
    SIZE,
    WeightServer,
    announces_less,
    announces_more,
    entry,
    files,
    leave_part,
    never_ends,
    other,
    plain,
    redirects,
    stalls,
    status,
    trickles,
    truncates,
    whole,
    wrong_range,
)

from handler.settings import Settings
from handler.weights import download, transfer
from handler.weights.download import Downloader
from handler.weights.transfer import DownloadFailed


def fetch(models_dir, *entries, problems=None, **settings):
    """Returns the reason why each entry was not downloaded, or None, by path."""
    chosen = Settings(**{"models_dir": models_dir, "weights_dirs": "/nowhere", "hf_cache_dir": "/nowhere", **settings})

    def report(wanted, text):
        if problems is not None:
            problems.append(text)

    downloader = Downloader(chosen, lambda wanted, size_bytes: None, report)
    return {str(wanted.path): failure and str(failure) for wanted, failure in downloader.download(entries)}


def test_a_file_is_downloaded(server, tmp_path):
    """Only the file is left in the folder, and a second call makes no request."""
    for _ in range(2):
        assert fetch(tmp_path / "models", entry(server.url())) == {NAME: None}
    assert (tmp_path / "models" / NAME).read_bytes() == CONTENT
    assert files(tmp_path / "models") == [NAME]
    assert len(server.seen) == 1


def test_files_are_downloaded_in_parallel(server, tmp_path, monkeypatch):
    """Two requests are open at the same time."""
    monkeypatch.setattr(download, "READ_TIMEOUT_S", 10.0)
    both_there = asyncio.Barrier(2)

    async def waits_for_the_other(request):
        async with asyncio.timeout(5), both_there:
            return await plain(request)

    server.plan = [waits_for_the_other] * 2
    assert fetch(tmp_path, entry(server.url("a"), path="a"), entry(server.url("b"), path="b")) == {"a": None, "b": None}
    assert len(server.seen) == 2


def test_one_failure_does_not_stop_the_others(server, tmp_path):
    """Each file has its own result."""
    server.plan = [status(404)]
    found = fetch(tmp_path, entry(server.url(), path="a"), entry(server.url(), path="b"))
    assert sorted(found.values(), key=str) == ["127.0.0.1: HTTP 404 Not Found", None]


def test_a_part_is_resumed(server, tmp_path):
    """Only the missing rest is requested; the hash covers both."""
    leave_part(tmp_path, CONTENT[:HALF])
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert server.ranges() == [f"bytes={HALF}-"]
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_complete_part_is_moved_into_place(server, tmp_path):
    """An earlier run was stopped before its last step; no request is needed."""
    leave_part(tmp_path, CONTENT)
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert (server.seen, files(tmp_path)) == ([], [NAME])


@pytest.mark.parametrize("left", [OTHER[:HALF], OTHER, OTHER + OTHER], ids=["half", "whole", "too long"])
def test_a_part_of_another_file_is_discarded(server, tmp_path, left):
    """The hash does not match, so the file is downloaded from the beginning, once."""
    leave_part(tmp_path, left)
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert server.ranges() == [f"bytes={len(left)}-", None]
    assert (tmp_path / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize(("behaviour", "requests"), [(whole, 1), (wrong_range, 2)])
def test_a_server_without_ranges_sends_the_whole_file(server, tmp_path, behaviour, requests):
    """Range is ignored, or answered with another range; the file is right in the end."""
    leave_part(tmp_path, CONTENT[:HALF])
    server.plan = [behaviour]
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert len(server.seen) == requests
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_an_error_page_does_not_cost_the_part(server, tmp_path):
    """Status 200 with another length, perhaps from a proxy, is not the file: the part is kept and resumed."""
    leave_part(tmp_path, CONTENT[:HALF])
    server.plan = [status(200)]
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert server.ranges() == [f"bytes={HALF}-"] * 2


@pytest.mark.parametrize("behaviour", [truncates(), stalls, announces_less])
def test_an_interrupted_download_resumes(server, tmp_path, behaviour):
    """Dropped connections, stalls and short responses are resumed and reported."""
    server.plan = [behaviour, behaviour]
    problems = []
    assert fetch(tmp_path, entry(server.url()), problems=problems) == {NAME: None}
    assert server.ranges() == [None, "bytes=100000-", "bytes=200000-"]
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert len(problems) == 2


def test_a_very_slow_connection_counts_as_stalled(server, tmp_path, monkeypatch):
    """A server that sends just enough to prevent a timeout is asked again."""
    monkeypatch.setattr(transfer, "WINDOW_S", 0.2)
    monkeypatch.setattr(transfer, "MIN_BYTES_PER_S", 1_000_000)
    server.plan = [trickles]
    problems = []
    assert fetch(tmp_path, entry(server.url()), problems=problems) == {NAME: None}
    assert len(server.seen) == 2
    assert "sent only" in problems[0]


def test_a_complete_file_is_accepted_whatever_was_announced(server, tmp_path):
    """The server announced more bytes, but the hash shows that none are missing."""
    server.plan = [announces_more]
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert len(server.seen) == 1


@pytest.mark.parametrize("is_rough", [False, True])
def test_a_response_that_is_too_large_is_aborted(server, tmp_path, is_rough):
    """An endless response is aborted at the maximum size and deleted."""
    server.plan = [never_ends] * 2
    wanted = entry(server.url(), is_rough=is_rough)
    assert fetch(tmp_path, wanted) == {NAME: f"127.0.0.1: is larger than {wanted.max_bytes} bytes"}
    assert files(tmp_path) == []


def test_a_file_that_changes_meanwhile_is_downloaded_again(server, tmp_path):
    """The first half comes from one version and the second from another; the download starts over."""
    server.plan = [truncates(OTHER)]
    problems = []
    assert fetch(tmp_path, entry(server.url()), problems=problems) == {NAME: None}
    assert server.ranges() == [None, "bytes=100000-", None]
    assert "starting over" in problems[1]


def test_an_error_about_a_wrong_file_has_both_hashes(server, tmp_path):
    """A file from a single response is not requested again; it is deleted, and an older file is kept."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / NAME).write_bytes(b"an older version")
    server.plan = [other] * 3
    found = fetch(tmp_path, entry(server.url()))[NAME]
    assert found == f"127.0.0.1: sha256 is {hashlib.sha256(OTHER).hexdigest()}, expected {SHA256}"
    assert len(server.seen) == 1
    assert files(tmp_path) == [NAME]
    assert (tmp_path / NAME).read_bytes() == b"an older version"


def test_a_wrong_file_is_downloaded_twice_at_most(server, tmp_path):
    """First resumed, then from the beginning, then it is an error."""
    leave_part(tmp_path, CONTENT[:HALF])
    server.plan = [other] * 9
    assert "expected" in fetch(tmp_path, entry(server.url()))[NAME]
    assert (server.ranges(), files(tmp_path)) == ([f"bytes={HALF}-", None], [])


def test_a_file_of_the_wrong_size_is_replaced(server, tmp_path):
    """The right one replaces it when it is complete."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_file_of_the_right_size_counts_as_present(server, tmp_path):
    """`fetch` does not read it, `verify` does."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / NAME).write_bytes(OTHER)
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert server.seen == []


@pytest.mark.parametrize(("content", "requests"), [(CONTENT, 0), (OTHER, 1)])
def test_without_an_exact_size_the_hash_decides(server, tmp_path, content, requests):
    """The list has only an estimate, so the present file is read."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / NAME).write_bytes(content)
    assert fetch(tmp_path, entry(server.url(), size_bytes=290_000, is_rough=True)) == {NAME: None}
    assert len(server.seen) == requests
    assert (tmp_path / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_temporary_error_is_retried(server, tmp_path, code):
    """These statuses are retried."""
    server.plan = [status(code)] * 2
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert len(server.seen) == 3


def test_retry_after_is_respected(server, tmp_path):
    """The server asks for one second."""
    server.plan = [status(429, **{"Retry-After": "1"})]
    start_s = time.monotonic()
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}
    assert time.monotonic() - start_s >= 1


def test_retries_are_limited(server, tmp_path):
    """The error has the last status; the part is kept for the next run."""
    part = leave_part(tmp_path, CONTENT[:HALF])
    server.plan = [status(503)] * 99
    assert fetch(tmp_path, entry(server.url())) == {NAME: "127.0.0.1: HTTP 503 Service Unavailable"}
    assert len(server.seen) == transfer.ATTEMPTS
    assert part.read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_not_retried(server, tmp_path, code):
    """One request, and no empty file is left."""
    server.plan = [status(code)] * 9
    assert f"HTTP {code}" in fetch(tmp_path, entry(server.url()))[NAME]
    assert (len(server.seen), files(tmp_path)) == (1, [])


@pytest.mark.parametrize("bad", [status(404), other, never_ends, status(500)])
def test_the_next_address_is_tried(server, mirror, tmp_path, monkeypatch, bad):
    """If the first address does not have the file, the second one is used."""
    monkeypatch.setattr(transfer, "ATTEMPTS", 2)
    server.plan = [bad] * 9
    assert fetch(tmp_path, entry(server.url(), mirror.url())) == {NAME: None}
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_the_next_address_resumes_the_part(server, mirror, tmp_path, monkeypatch):
    """Bytes from the first address are not requested again."""
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    server.plan = [truncates()]
    assert fetch(tmp_path, entry(server.url(), mirror.url())) == {NAME: None}
    assert mirror.ranges() == ["bytes=100000-"]


def test_if_all_addresses_fail_the_error_names_each(server, mirror, tmp_path):
    """The message has one reason per address."""
    server.plan, mirror.plan = [status(404)], [status(403)]
    found = fetch(tmp_path, entry(server.url(), mirror.url()))[NAME]
    assert found == "127.0.0.1: HTTP 404 Not Found; 127.0.0.1: HTTP 403 Forbidden"


def test_an_unreachable_server_is_an_error(server, tmp_path):
    """A refused connection is retried, then reported."""
    with WeightServer() as gone:
        address = gone.url()
    assert "refused" in fetch(tmp_path, entry(address))[NAME]


@pytest.mark.parametrize("target", ["ftp://example.com/a", "http://[", "self"])
def test_a_redirect_that_cannot_be_followed_is_an_error(server, tmp_path, target):
    """Another scheme, an invalid address, or a loop."""
    server.plan = [redirects(server.url() if target == "self" else target)] * 99
    assert fetch(tmp_path, entry(server.url()))[NAME]
    assert files(tmp_path) == []


# Proxies


def test_the_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    """http_proxy, as in other programs."""
    monkeypatch.setenv("http_proxy", f"http://{server.address}")
    assert fetch(tmp_path, entry("http://weights.example/a")) == {NAME: None}
    assert server.seen[0].headers["Host"] == "weights.example"


def test_a_proxy_that_cannot_be_used_is_an_error(tmp_path, monkeypatch):
    """Before the first request."""
    monkeypatch.setenv("http_proxy", "gopher://example.com")
    with pytest.raises(DownloadFailed, match="proxy"):
        fetch(tmp_path)


# The disk


def test_disk_space_is_checked_first(server, tmp_path, monkeypatch):
    """For all files together, minus their parts; no request is made if it does not suffice."""
    leave_part(tmp_path, CONTENT[:HALF])
    wanted = entry(server.url()), entry(server.url(), path="b")
    needed = SIZE + SIZE - HALF
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(DownloadFailed, match="450,000 bytes to download, but only 449,999 are free"):
        fetch(tmp_path, *wanted)
    assert server.seen == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    assert set(fetch(tmp_path, *wanted).values()) == {None}


def test_a_full_disk_is_an_error(server, tmp_path, monkeypatch):
    """The part that could be written is kept."""
    counter = itertools.count()
    write = transfer.Part.write

    def full(self, chunk):
        if next(counter) >= 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, chunk)

    monkeypatch.setattr(transfer.Part, "write", full)
    assert fetch(tmp_path, entry(server.url())) == {NAME: "cannot be written: No space left on device"}
    assert files(tmp_path) == [f"{NAME}.part"]


def test_two_programs_do_not_download_into_the_same_folder(server, tmp_path):
    """The second one fails at once: two programs would corrupt each other's parts."""
    with (tmp_path / download.LOCK_NAME).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DownloadFailed, match="another program is downloading"):
            fetch(tmp_path, entry(server.url()))
    assert fetch(tmp_path, entry(server.url())) == {NAME: None}


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path):
    """A file has its name."""
    (tmp_path / "models").touch()
    with pytest.raises(DownloadFailed, match="cannot be written: (File exists|Not a directory)"):
        fetch(tmp_path / "models", entry("http://weights.example/a"))


def test_nothing_is_written_if_nothing_is_missing(tmp_path):
    """All files are on a volume, and the models folder cannot be created."""
    (tmp_path / "models").touch()
    (tmp_path / "volume" / "checkpoints").mkdir(parents=True)
    (tmp_path / "volume" / NAME).write_bytes(CONTENT)
    wanted = entry("http://weights.example/a")
    assert fetch(tmp_path / "models", wanted, weights_dirs=str(tmp_path / "volume")) == {NAME: None}
