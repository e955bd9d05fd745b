"""The HTTP server's service over a generator that does what the prompt says."""

import contextlib
import socket
import threading

from handler.errors import ModelMissing, NodeFailed, NotTransparent
from handler.job import profiles, seeds
from handler.job.drawing import PlannedPicture
from handler.job.picture import Picture
from handler.job.progress import JobProgress, Stage
from handler.job.runner import Runner
from handler.server.background import Background
from handler.server.dispatcher import Dispatcher
from handler.server.job_store import JobStore
from handler.server.metrics import Metrics
from handler.server.picture_store import PictureStore
from handler.server.readiness import Readiness
from handler.server.serve import Server
from handler.server.service import Service
from handler.server.signing import UrlSigner
from handler.server.workflow_watch import WorkflowWatch

THIRD = 12  # the seed of the third picture, for a request whose seed is 10
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))


class Up:
    """A ComfyUI that runs; tests change how it is."""

    def __init__(self):
        self.is_ready = True
        self.unfit = threading.Event()
        self.unfit_reason = ""

    def stop(self):
        pass


class Painter:
    """A generator that does what the prompt says.

    Attributes:
        parsed: the inputs that were checked.
        prompts: the prompts of the jobs that ran.
        go_on: ends the jobs "wait" and "steps".
        png: the picture of every job.
        info: what the reply says about it, besides seed and seconds.
        number: is in the names of pictures, so that they differ from those of another start.
    """

    def __init__(self, settings):
        self.settings = settings
        self.workflow = profiles.load(settings)
        self.parsed = []
        self.prompts = []
        self.go_on = threading.Event()
        self.png = PNG
        self.info = {}
        self.number = 1

    def input_schema(self):
        return self.workflow.input_schema()

    def input_schemas(self):
        return self.workflow.input_schemas()

    def use(self, workflow):
        self.workflow = workflow

    def parse(self, raw):
        self.parsed.append(raw)
        return self.workflow.parse(raw)

    def fetched(self, request, deadline):
        return request

    def plan(self, request, first=None):
        draws = seeds.draws(request, self.workflow.parameters, first)
        return [PlannedPicture(self.workflow, request, draw, image) for image, draw in enumerate(draws, 1)]

    def draw(self, planned, deadline, on_progress):
        prompt, seed = planned.request.values["prompt"], planned.random.values["seed"]
        self.prompts.append(prompt)
        if prompt == "wait":
            while not self.go_on.is_set():
                deadline.sleep(0.01)
        if prompt == "fail once" and self.prompts.count(prompt) == 1:
            raise NodeFailed("KSampler: out of memory")
        if prompt == "without weights":
            raise ModelMissing("models/loras/x.safetensors missing")
        if prompt == "opaque third" and seed == THIRD:
            raise NotTransparent("picture is opaque")
        if prompt == "fail third" and seed == THIRD:
            raise NodeFailed("KSampler: out of memory")
        if prompt == "wait at third" and planned.image == 3:
            while not self.go_on.is_set():
                deadline.sleep(0.01)
        if prompt == "crash":
            raise RuntimeError("/home/somebody/secret")
        if prompt == "steps":
            for step in (1, 2):
                on_progress(JobProgress(Stage.SAMPLING, step, 20))
            while not self.go_on.is_set():
                deadline.sleep(0.01)
        seconds = {"Sampler": 0.5, "total": 0.6}
        facts = {"picture": {"format": "png", "width": 128, "height": 128}, "alpha": {"mean": 0.5}, **self.info}
        name = f"alpha_{self.number}_{len(self.prompts):06x}.png"
        return Picture(self.png, name, {"seed": seed}, {"seconds": seconds, "seed": seed, **facts})


def painted_service(settings, buckets=None):
    """Returns a service and the painter behind it."""
    painter = Painter(settings)
    metrics, pictures = Metrics(), PictureStore(settings.data_dir / "pictures")
    store = JobStore(settings.data_dir / "jobs.sqlite3", settings.queue_limit)
    service = Service(
        settings=settings,
        background=Background(),
        dispatcher=Dispatcher(store, Runner(painter, buckets), pictures, settings, metrics),
        store=store,
        pictures=pictures,
        metrics=metrics,
        readiness=Readiness(lambda: None, lambda: None, Up()),
        signer=UrlSigner.of(settings),
        input_schema=painter.input_schema,
        input_schemas=painter.input_schemas,
        watch=WorkflowWatch(settings.workflows_dir, lambda: profiles.load(settings), painter.use),
    )
    return service, painter


@contextlib.contextmanager
def serving(service):
    """Serves it on a loopback port for as long as the block lasts; yields the server's URL."""
    server = Server(service)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        service.store.close()
