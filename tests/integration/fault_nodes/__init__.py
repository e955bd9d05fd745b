"""A node pack without nodes, for tests of faults: makes ComfyUI fail as `plan.json` next to this file says.

The plan has a list for each place; each call there takes the first entry off, and fails if it is not empty.
"""

import json
import threading
from pathlib import Path

import comfy.sample
import execution
import torch

NODE_CLASS_MAPPINGS = {}
LOCK = threading.Lock()  # graphs run in another thread than the server
PLAN = Path(__file__).with_name("plan.json")
CUDA = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"


def fails(place):
    with LOCK:
        plan = json.loads(PLAN.read_text())
        if not plan.get(place):
            return ""
        fault = plan[place].pop(0)
        PLAN.write_text(json.dumps(plan))
        return fault


def sample(*args, **kwargs):
    match fails("sample"):
        case "out of memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity")
        case "cuda":
            raise torch.AcceleratorError(CUDA)
    return SAMPLE(*args, **kwargs)


async def validate_prompt(*args, **kwargs):
    if fails("validate"):
        raise RuntimeError(CUDA)
    return await VALIDATE(*args, **kwargs)


def task_done(*args, **kwargs):
    if fails("done"):
        raise torch.AcceleratorError(CUDA)
    return DONE(*args, **kwargs)


SAMPLE, comfy.sample.sample = comfy.sample.sample, sample
VALIDATE, execution.validate_prompt = execution.validate_prompt, validate_prompt
DONE, execution.PromptQueue.task_done = execution.PromptQueue.task_done, task_done
