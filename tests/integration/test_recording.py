"""The recording of node classes that `layerdiffuse-alpha workflow lint` and `convert` use."""

import gzip
import json

from handler.deadline import Deadline
from handler.job.stored_workflows import OBJECT_INFO
from handler.workflow.node_classes import reduced


def test_the_recording_is_of_the_installed_nodes(comfyui, settings):
    """If it differs, run tools/record_object_info.py: ComfyUI's version or our nodes have changed."""
    recorded = json.loads(gzip.decompress((settings.workflows_dir / OBJECT_INFO).read_bytes()))
    installed = reduced(comfyui.client(Deadline(60)).node_classes())
    assert recorded.keys() == installed.keys()
    assert [name for name in recorded if recorded[name] != installed[name]] == []
