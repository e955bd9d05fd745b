"""Records the node classes of the installed ComfyUI into workflows/, for `layerdiffuse-alpha workflow lint`."""

import gzip
import json

from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.job.stored_workflows import OBJECT_INFO
from handler.settings import Settings
from handler.workflow.node_classes import reduced

START_TIMEOUT_S = 240


def main() -> None:
    """Starts ComfyUI with the tiny model on the CPU, and writes the file."""
    settings = Settings(profile="tiny", device="cpu")
    with ComfyProcess(settings) as comfyui:
        classes = reduced(comfyui.client(Deadline(START_TIMEOUT_S)).node_classes())
    text = json.dumps(classes, separators=(",", ":"), sort_keys=False)
    (settings.workflows_dir / OBJECT_INFO).write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
