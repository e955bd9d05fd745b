import base64
import json

import pytest

from handler.errors import ReplyTooLarge
from handler.job import formats, reply
from handler.job.picture import Outcome, PictureFacts
from handler.job.reply import Shape
from handler.settings import Settings

OUTCOME = Outcome((PictureFacts("alpha_1_abcdef.png", {"seed": 7}, {"prompt": "ü", "steps": 20}),))


@pytest.fixture
def png(make_png):
    return make_png(256, 256, level=0)


def test_the_reply_has_the_documented_fields(png):
    """Status, the picture three times, name, seed, and info as JSON text."""
    built = reply.build(OUTCOME, [png], Shape(10**7))
    assert set(built) == {"status", "url", "image_url", "image_base64", "filename", "seed", "info"}
    assert built["status"] == "success"
    assert built["seed"] == 7
    assert built["url"] == built["image_url"] == "data:image/png;base64," + built["image_base64"]
    assert base64.b64decode(built["image_base64"]) == png
    assert json.loads(built["info"]) == {"prompt": "ü", "steps": 20}


def test_a_smaller_limit_drops_copies_then_compresses_then_fails(png):
    """As the limit shrinks, image_url is dropped, then url, then the PNG is compressed, then the job fails."""
    whole = len(json.dumps(reply.build(OUTCOME, [png], Shape(10**7))))
    copy = 4 * len(png) // 3
    assert "image_url" in reply.build(OUTCOME, [png], Shape(whole))
    one_less = reply.build(OUTCOME, [png], Shape(whole - 1))
    assert "image_url" not in one_less
    assert "url" in one_less
    bare = reply.build(OUTCOME, [png], Shape(whole - copy - 100))
    assert "url" not in bare
    assert base64.b64decode(bare["image_base64"]) == png
    pressed = reply.build(OUTCOME, [png], Shape(copy // 2))
    assert len(pressed["image_base64"]) < copy // 10
    with pytest.raises(ReplyTooLarge, match="limit|LIMIT"):
        reply.build(OUTCOME, [png], Shape(500))


@pytest.mark.parametrize("field", ["image_base64", "url"])
def test_a_setting_chooses_one_copy(png, field):
    """With REPLY_FIELDS, the picture is in one field, and the reply has a third of the bytes."""
    shape = Shape.of(Settings(reply_fields=field))
    built = reply.build(OUTCOME, [png], shape)
    assert set(built) == {"status", field, "filename", "seed", "info"}
    assert base64.b64decode(built[field].rpartition(",")[2]) == png
    assert len(json.dumps(built)) < len(json.dumps(reply.build(OUTCOME, [png], Shape(10**7)))) / 2.9


def test_the_clients_of_the_published_guides_work_unchanged(png):
    """They read three fields in three ways, so the default reply has all three, although one copy would be smaller."""
    result = {"output": json.loads(json.dumps(reply.build(OUTCOME, [png], Shape.of(Settings()))))}
    assert base64.b64decode(result["output"]["image_base64"]) == png
    assert result["output"]["url"].startswith("data:image/png;base64,")  # <img src="${response.output.url}">
    assert base64.b64decode(result["output"]["image_url"].split(",")[1]) == png


@pytest.mark.parametrize("limit", [600_000, 800_000, 1_200_000, 5_000])
def test_the_limit_holds(png, limit):
    """The reply as JSON is never larger than the limit."""
    assert len(json.dumps(reply.build(OUTCOME, [png], Shape(limit)))) <= limit


def test_a_picture_in_a_bucket_needs_no_pixels():
    """Both URLs point to the bucket, and there is no base64."""
    url = "https://bucket/alpha_1_abcdef.png"
    built = reply.build(Outcome((PictureFacts("alpha_1_abcdef.png", {"seed": 7}, {}, url),)), [None], Shape(1000))
    assert built["url"] == built["image_url"] == url
    assert "image_base64" not in built


@pytest.mark.parametrize("limit", [600_000, 800_000, 1_200_000, 5_000, 500])
def test_the_size_is_computed_as_the_reply_is_built(png, limit):
    """`check_size` fails exactly if `build` does, and the size it computes is the size of the built reply."""
    fits = True
    try:
        reply.check_size(OUTCOME, [png], Shape(limit))
    except ReplyTooLarge:
        fits = False
    if fits:
        exact = len(json.dumps(reply.build(OUTCOME, [png], Shape(limit))))
        assert len(json.dumps(reply.build(OUTCOME, [png], Shape(exact)))) == exact
    else:
        with pytest.raises(ReplyTooLarge):
            reply.build(OUTCOME, [png], Shape(limit))


def test_checking_the_size_encodes_nothing(png, monkeypatch):
    """A picture that fits is neither encoded nor compressed."""
    monkeypatch.setattr(reply, "pybase64", None)
    monkeypatch.setattr(formats.png, "recompress", None)
    reply.check_size(OUTCOME, [png], Shape(10**7))
