"""Several pictures from one request, over a scripted generator; `num_images` counts seeds up from 10 here."""

import base64
import json
import shutil
import time

import openai
import pytest
from calls import TXT2IMG, error, submit, until, when

from handler.errors import NoGpu
from handler.server import cleanup, dispatcher, kept_pictures

LAST = 3


def ask(client, prompt="an apple", number=4, **more):
    """Returns a finished job."""
    job_id = submit(client, prompt, input={"prompt": prompt, "seed": 10, "num_images": number, **more})
    return when(client, job_id, "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


def seeds_of(entries):
    return [entry["seed"] for entry in entries or ()]


def test_a_job_lists_its_pictures(client):
    """The single-picture fields are those of the first; each entry says what it is."""
    output = ask(client, number=3)["output"]
    assert set(output) == {"status", "url", "image_url", "image_base64", "filename", "seed", "info", "images"}
    assert seeds_of(output["images"]) == [10, 11, 12]
    first, *_ = output["images"]
    assert (first["filename"], first["image_base64"]) == (output["filename"], output["image_base64"])
    assert set(first) == {"image_base64", "filename", "seed", "width", "height", "alpha"}
    assert (output["seed"], json.loads(output["info"])["seed"]) == (10, 10)
    assert len({entry["filename"] for entry in output["images"]}) == 3


def test_one_picture_is_listed_only_if_the_request_has_the_field(client):
    """Replies to requests without it are those of earlier versions."""
    assert seeds_of(ask(client, number=1)["output"]["images"]) == [10]
    job = when(client, submit(client), "COMPLETED")
    assert set(job["output"]) == {"status", "url", "image_url", "image_base64", "filename", "seed", "info"}


def test_txt2img_has_a_url_for_each(client):
    """Each one works."""
    answer = client.post(TXT2IMG, json={"prompt": "an apple", "seed": 10, "num_images": 2}).json()
    assert set(answer) == {"url", "filename", "seed", "info", "images"}
    assert set(answer["images"][0]) == {"url", "filename", "seed", "width", "height", "alpha"}
    assert [client.get(entry["url"]).content for entry in answer["images"]] == [client.painter.png] * 2


def test_an_error_keeps_the_pictures_before_it(client):
    """What would fail like the last one is not tried, and the reply says what is missing and why."""
    output = ask(client, "fail third")["output"]
    assert seeds_of(output["images"]) == [10, 11]
    assert seeds_of(output["missing"]) == [12, 13]
    assert {entry["error"] for entry in output["missing"]} == {"node_failed: KSampler: out of memory"}
    assert len(client.painter.prompts) == 3


def test_an_opaque_picture_is_only_about_itself(client):
    """The next seed may be transparent, so it is drawn."""
    answer = client.post(TXT2IMG, json={"prompt": "opaque third", "seed": 10, "num_images": 4}).json()
    assert seeds_of(answer["images"]) == [10, 11, 13]
    assert answer["missing"] == [{"seed": 12, "error": "not_transparent: picture is opaque"}]


def test_without_any_picture_the_job_fails(client):
    """With the first error."""
    job = ask(client, "opaque third", number=1, seed=12)
    assert (job["status"], job["error"]) == ("FAILED", "not_transparent: picture is opaque")


def test_too_many_for_a_reply_are_refused_before_drawing(make):
    """The message says how many would fit. A reply with URLs has no such limit."""
    client = make(reply_limit_bytes=100_000)
    job = ask(client, number=8)
    assert job["error"].startswith("invalid_input: 8 pictures of 128x128 do not fit into a reply, 3 would: ask for ")
    assert client.painter.prompts == []
    assert len(client.post(TXT2IMG, json={"prompt": "x", "num_images": 8}).json()["images"]) == 8


def test_pictures_that_do_not_fit_after_all_are_missing(make):
    """How large a picture is, is known only when it is drawn. The reply stays within its limit."""
    client = make(reply_limit_bytes=200_000)
    client.painter.png = b"RIFF....WEBPVP8L" + bytes(60_000)  # cannot be compressed harder
    output = ask(client, number=3)["output"]
    assert len(json.dumps(output)) <= 200_000
    assert "image_base64" not in output  # the list has it
    assert (seeds_of(output["images"]), seeds_of(output["missing"])) == ([10, 11], [12])
    assert output["missing"][0]["error"].startswith("reply_too_large: ")


def test_a_cancelled_job_keeps_none(client):
    """Cancelled while the third is drawn: nothing stays on disk."""
    job_id = submit(client, input={"prompt": "wait at third", "seed": 10, "num_images": 4})
    until(lambda: len(client.painter.prompts) == 3)
    client.post(f"/v2/local/cancel/{job_id}")
    assert when(client, job_id, "CANCELLED")["error"] == "cancelled: the job was cancelled"
    assert not list(client.service.settings.data_dir.glob("pictures/*"))


class SlowBucket:
    """Its uploads end when the next picture is being drawn."""

    def __init__(self):
        self.painter = None
        self.waited = []

    def of_job(self, _):
        return self

    def put(self, filename, _):
        number = len(self.waited) + 1
        self.waited.append(number == LAST or self.sees(number + 1))
        return f"https://s3.example/{filename}"

    def sees(self, count):
        end_s = time.monotonic() + 2
        while len(self.painter.prompts) < count and time.monotonic() < end_s:
            time.sleep(0.01)
        return len(self.painter.prompts) == count


def test_a_picture_is_uploaded_while_the_next_one_is_drawn(make):
    """The GPU does not wait for the bucket, unless the bucket is slower than drawing."""
    bucket = SlowBucket()
    client = make(buckets=bucket)
    bucket.painter = client.painter
    output = ask(client, number=LAST)["output"]
    assert bucket.waited == [True] * LAST
    assert [entry["url"] for entry in output["images"]] == [
        f"https://s3.example/{entry['filename']}" for entry in output["images"]
    ]


def interrupted(client):
    """Returns the id of a job without a seed whose third picture is being drawn, and the names of the first two."""
    job_id = submit(client, input={"prompt": "wait at third", "num_images": 4})
    folder = client.service.settings.data_dir
    until(lambda: len(client.painter.prompts) == 3 and len(kept_pictures.filenames(client.service.store.database)) == 2)
    return job_id, {path.name for path in (folder / "pictures").iterdir()}


def continued(client, job_id):
    """Returns the job when this next start has finished it."""
    client.painter.number = 2
    client.painter.go_on.set()
    return when(client, job_id, "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


@pytest.mark.parametrize("end", ["stop", "crash"])
def test_an_interrupted_job_continues_after_its_pictures(make, monkeypatch, tmp_path, end):
    """The next start draws only the third and fourth, with the seeds that the first one chose."""
    monkeypatch.setattr(dispatcher, "STOP_GRACE_S", 0.1)
    client = make()
    job_id, before = interrupted(client)
    folder = tmp_path
    if end == "stop":
        client.__exit__(None, None, None)
    else:
        folder = shutil.copytree(tmp_path, tmp_path / "as it was")
    again = make(data_dir=folder)
    output = continued(again, job_id)["output"]
    assert len(again.painter.prompts) == 2
    first = output["seed"]
    assert seeds_of(output["images"]) == [first, first + 1, first + 2, first + 3]
    assert {entry["filename"] for entry in output["images"][:2]} == before
    assert {base64.b64decode(entry["image_base64"]) for entry in output["images"]} == {again.painter.png}


def test_a_cancelled_job_keeps_none_after_a_restart(make, monkeypatch, tmp_path):
    """Cancelled while it waits for a worker that can draw."""

    def without_gpu():
        raise NoGpu("no GPU")

    job_id, _ = interrupted(make())
    monkeypatch.setattr(cleanup, "CLEANUP_S", 0.05)
    again = make(without_gpu, data_dir=shutil.copytree(tmp_path, tmp_path / "as it was"))
    assert again.post(f"/v2/local/cancel/{job_id}").json()["status"] == "CANCELLED"
    folder = again.service.settings.data_dir / "pictures"
    until(lambda: not list(folder.iterdir()))


def test_a_deadline_keeps_the_pictures_before_it(make):
    """As any other error."""
    output = ask(make(job_timeout_s=1), "wait at third")["output"]
    assert seeds_of(output["images"]) == [10, 11]
    assert {entry["error"] for entry in output["missing"]} == {"timeout: the job took longer than 1 s"}


@pytest.mark.parametrize("number", [0, 9, True, "2", 1.5])
def test_other_numbers_are_refused(client, number):
    """The limits are in the params file."""
    status, code, message = error(client.post(TXT2IMG, json={"prompt": "x", "num_images": number}))
    assert (status, code) == (422, "invalid_input")
    assert message.startswith("num_images must be an integer from 1 to 8, got ")


def test_openais_client_gets_what_could_be_made(serve_painted):
    """`n` draws one job of several pictures; a missing one is an additional field."""
    url, _, painter = serve_painted()
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        made = client.images.generate(prompt="opaque third", n=4, extra_body={"user": "me"})
        assert {base64.b64decode(image.b64_json) for image in made.data} == {painter.png}
        assert len(painter.prompts) == 4
