import base64
import json

import pytest

from handler.errors import ReplyTooLarge
from handler.job import reply


@pytest.fixture
def generated(make_png):
    return reply.Generated(make_png(256, 256, level=0), "alpha_1_abcdef.png", {"seed": 7}, {"prompt": "ü", "steps": 20})


def test_the_reply_has_the_documented_fields(generated):
    """Status, the picture three times, name, seed, and info as JSON text."""
    built = reply.build(generated, 10**7)
    assert set(built) == {"status", "url", "image_url", "image_base64", "filename", "seed", "info"}
    assert built["status"] == "success"
    assert built["seed"] == 7
    assert built["url"] == built["image_url"] == "data:image/png;base64," + built["image_base64"]
    assert base64.b64decode(built["image_base64"]) == generated.png
    assert json.loads(built["info"]) == {"prompt": "ü", "steps": 20}


def test_a_smaller_limit_drops_copies_then_compresses_then_fails(generated):
    """With ever smaller limits: image_url goes, then url, then bytes by compression, then a clear error."""
    whole = len(json.dumps(reply.build(generated, 10**7)))
    copy = 4 * len(generated.png) // 3
    assert "image_url" in reply.build(generated, whole)
    one_less = reply.build(generated, whole - 1)
    assert "image_url" not in one_less
    assert "url" in one_less
    bare = reply.build(generated, whole - copy - 100)
    assert "url" not in bare
    assert base64.b64decode(bare["image_base64"]) == generated.png
    pressed = reply.build(generated, copy // 2)
    assert len(pressed["image_base64"]) < copy // 10
    with pytest.raises(ReplyTooLarge, match="limit|LIMIT"):
        reply.build(generated, 500)


@pytest.mark.parametrize("limit", [600_000, 800_000, 1_200_000, 5_000])
def test_the_limit_holds(generated, limit):
    """The reply as JSON is never larger than the limit."""
    assert len(json.dumps(reply.build(generated, limit))) <= limit
