"""What the routes depend on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from handler.server.background import Background
from handler.server.dispatcher import Dispatcher
from handler.server.job_store import JobStore
from handler.server.metrics import Metrics
from handler.server.picture_store import PictureStore
from handler.server.readiness import Readiness
from handler.server.signing import UrlSigner
from handler.server.workflow_watch import WorkflowWatch
from handler.settings import Settings


@dataclass(frozen=True)
class Service:
    """The parts of one server.

    Attributes:
        signer: signs picture URLs.
        input_schema: returns the JSON Schema of a job's input with the default workflow.
        input_schemas: returns those of all workflows by name.
        watch: takes over changes of the stored workflow.
    """

    settings: Settings
    background: Background
    dispatcher: Dispatcher
    store: JobStore
    pictures: PictureStore
    metrics: Metrics
    readiness: Readiness
    signer: UrlSigner
    input_schema: Callable[[], dict[str, Any]]
    input_schemas: Callable[[], dict[str, dict[str, Any]]]
    watch: WorkflowWatch


async def _service(request: Request) -> Service:  # FastAPI runs plain functions in a thread
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service)]
