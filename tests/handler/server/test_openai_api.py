"""OpenAI's own client for Python, unchanged but for its base URL."""

import base64

import httpx
import openai
import pytest


@pytest.fixture
def painted(serve_painted):
    url, _, painter = serve_painted()
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client, painter


def test_pictures_are_generated(painted):
    """As base64 by default, or as URLs that work."""
    client, painter = painted
    made = client.images.generate(prompt="a red apple", n=2, size="128x192", background="transparent")
    assert [base64.b64decode(image.b64_json) for image in made.data] == [painter.png] * 2
    assert made.created > 1.7e9
    (image,) = client.images.generate(prompt="x", model="any", response_format="url", size="square", user="me").data
    assert httpx.get(image.url).content == painter.png
    assert painter.parsed == [
        {"prompt": "a red apple", "num_images": 2, "output_format": None, "width": 128, "height": 192},
        {"prompt": "x", "num_images": None, "output_format": None, "size": "square"},
    ]


def test_the_model_chooses_a_stored_workflow(serve_painted):
    """By its name, or by its id in the list of models; other models are ignored."""
    url, _, painter = serve_painted()
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        ids = [model.id for model in client.models.list()]
        for model in (ids[0], ids[2], "txt2img_alpha_turbo", "gpt-image-1"):
            client.images.generate(prompt="x", model=model, size="square")
    assert ids == ["txt2img_alpha/tiny", "foreground_on_background/tiny", "txt2img_alpha_turbo/tiny"]
    turbo = "txt2img_alpha_turbo"
    assert [raw.get("workflow") for raw in painter.parsed] == ["txt2img_alpha", turbo, turbo, None]


def test_background_and_format_are_passed_on(painted):
    """Opaque means on white."""
    client, painter = painted
    client.images.generate(prompt="x", background="opaque", output_format="webp", size="auto")
    assert painter.parsed == [{"prompt": "x", "num_images": None, "output_format": "webp", "background": "#ffffff"}]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"prompt": "x", "n": 9}, openai.UnprocessableEntityError, "num_images must be an integer from 1 to 8, got 9"),
        ({"prompt": " "}, openai.UnprocessableEntityError, "not blank"),
        ({"prompt": "x", "size": "100x128"}, openai.UnprocessableEntityError, "the nearest are 64 and 128"),
        ({"prompt": "x", "extra_body": {"sise": 1}}, openai.BadRequestError, "sise"),
        ({"prompt": "fail once"}, openai.InternalServerError, "out of memory"),
    ],
)
def test_errors_have_openais_shape(painted, fields, error, message):
    """The client raises its own exceptions, with our message and code."""
    client, _ = painted
    with pytest.raises(error) as caught:
        client.images.generate(**fields)
    assert message in caught.value.message
    assert caught.value.type in {"invalid_request_error", "server_error"}
    assert caught.value.code in {"bad_request", "invalid_input", "node_failed"}
