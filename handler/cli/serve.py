"""`layerdiffuse-alpha serve`: the HTTP server."""

from handler import logs
from handler.cli import terminal
from handler.cli.terminal import EXIT_USAGE, fail
from handler.comfyui.process import ComfyProcess
from handler.job import preparation, profiles
from handler.job.generate import Generator
from handler.server.address import AddressNotAllowed, check_address


def serve() -> None:
    """Serves RunPod's job API, the alpha API and a web page on LISTEN_HOST and PORT."""
    settings = terminal.settings()
    if "embed_workflow" not in settings.model_fields_set:  # its pictures stay on this machine
        settings = settings.model_copy(update={"embed_workflow": True})
    logs.configure(settings.log_level, settings.log_format)
    try:
        check_address(settings)
    except AddressNotAllowed as exc:
        fail(str(exc), EXIT_USAGE)
    workflow = profiles.load(settings)
    with ComfyProcess(settings) as comfyui:
        generator = Generator(workflow, comfyui, settings)
        preparation.begin(generator)
        from handler.server import serve as server  # FastAPI takes half a second, during which ComfyUI starts

        try:
            server.serve(generator, settings)
        except server.CannotListen as exc:
            fail(str(exc), EXIT_USAGE)
