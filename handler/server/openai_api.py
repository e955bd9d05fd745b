"""The image API of OpenAI, as far as this worker can do it: its clients only change their base URL.

Request and response: https://platform.openai.com/docs/api-reference/images/create
"""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pybase64
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from handler.errors import GenerationError
from handler.job import reply
from handler.job.picture import PictureFacts
from handler.server.error_responses import invalid_fields
from handler.server.errors import NotFound
from handler.server.openapi import GENERAL, SUBMITTING, error_docs, json_body
from handler.server.protocol import MissingImage
from handler.server.request_body import JsonObjectOf
from handler.server.service import Service, ServiceOf
from handler.server.waiting import draw, picture_url
from handler.workflow.workflow import CHOICE

WHITE = "#ffffff"
SIDES = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


class ImagesRequest(BaseModel):
    """A request for pictures. Fields without a meaning here are accepted, as clients send them."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    n: int | None = Field(None, description="number of pictures, as `num_images`")
    size: str | None = Field(None, max_length=40, description="`auto`, `1024x1024`, or a size by name: `square`, …")
    output_format: Literal["png", "webp"] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = Field(None, description="opaque: on white")
    response_format: Literal["b64_json", "url"] | None = Field(None, description="b64_json by default")
    model: str | None = Field(None, description="a stored workflow; other names are ignored")
    quality: str | None = Field(None, description="ignored")
    style: str | None = Field(None, description="ignored")
    moderation: str | None = Field(None, description="ignored")
    user: str | None = Field(None, description="ignored")

    def job_input(self, workflows: Sequence[str]) -> dict[str, Any]:
        """Returns the input of a job; number and size are checked with it. `workflows` are those that it may name."""
        found: dict[str, Any] = {"prompt": self.prompt, "num_images": self.n, "output_format": self.output_format}
        if (name := (self.model or "").partition("/")[0]) in workflows:
            found[CHOICE] = name
        if self.background == "opaque":
            found["background"] = WHITE
        if sides := SIDES.fullmatch(self.size or ""):
            found |= {"width": int(sides[1]), "height": int(sides[2])}
        elif self.size != "auto":
            found["size"] = self.size
        return found


class ImageData(BaseModel):
    """A picture."""

    b64_json: str | None = None
    url: str | None = None


class ImagesReply(BaseModel):
    """The pictures of one request. If the server stores pictures in a bucket, they are URLs."""

    created: int = Field(description="seconds since 1970")
    data: list[ImageData]
    missing: list[MissingImage] | None = Field(None, description="as in a job's output; not in OpenAI's API")


class Model(BaseModel):
    """A workflow with its profile."""

    id: str = Field(description="workflow/profile")
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "layerdiffuse-alpha"


class Models(BaseModel):
    """The workflows that this server runs."""

    object: Literal["list"] = "list"
    data: list[Model]


async def _images_request(body: JsonObjectOf) -> ImagesRequest:
    try:
        return ImagesRequest.model_validate(body)
    except ValidationError as exc:
        raise invalid_fields(exc.errors(include_input=False, include_url=False)) from None


IMAGES_BODY = json_body(
    ImagesRequest.model_json_schema(), {"two pictures": {"prompt": "a red apple", "n": 2, "output_format": "webp"}}
)
router = APIRouter()


@router.post(
    "/images/generations",
    openapi_extra=IMAGES_BODY,
    responses=error_docs(*SUBMITTING, NotFound, *GenerationError.__subclasses__()),
    response_model_exclude_none=True,
)
async def create_images(
    service: ServiceOf, request: Request, wanted: Annotated[ImagesRequest, Depends(_images_request)]
) -> ImagesReply:
    """Generates pictures in the shape of OpenAI's image API."""
    outcome = await draw(service, request, wanted.job_input(_workflows(service)))
    as_url = wanted.response_format == "url"
    data = [await _image_data(service, request, picture, as_url) for picture in outcome.pictures]
    missing = [MissingImage.model_validate(reply.missing_entry(each)) for each in outcome.missing]
    return ImagesReply(created=int(time.time()), data=data, missing=missing or None)


@router.get("/models", responses=error_docs(*GENERAL))
async def list_models(service: ServiceOf) -> Models:
    """The workflows that this server runs, the default one first, each with its profile."""
    profile = service.input_schema()["x-profile"]
    return Models(data=[Model(id=f"{name}/{profile}") for name in _workflows(service)])


def _workflows(service: Service) -> list[str]:
    names: list[str] = service.input_schema()["properties"][CHOICE]["enum"]
    return [name for name in names if name is not None]


async def _image_data(service: Service, request: Request, picture: PictureFacts, as_url: bool) -> ImageData:
    if as_url or picture.url is not None:
        return ImageData(url=picture_url(service, request, picture))
    encoded = await asyncio.to_thread(service.pictures.read, picture.filename)
    if encoded is None:
        raise NotFound("the picture has expired")
    return ImageData(b64_json=pybase64.b64encode_as_string(encoded))
