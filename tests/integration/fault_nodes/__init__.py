"""A node pack without nodes, for tests of faults: makes ComfyUI fail as `plan.json` next to this file says.

The plan has a list for each place; each call there takes the first entry off, and fails if it is not empty. With
`little_memory`, other containers of the host have taken almost all memory: ComfyUI asks psutil, which sees the host.
With `ignores_patch`, weights stay as they are.
"""

import json
import os
import signal
import threading
from pathlib import Path

import comfy.sample
import execution
import psutil
import torch
from comfy.weight_adapter.lora import LoRAAdapter

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
        case "kill":  # after the first step
            kwargs["callback"] = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return SAMPLE(*args, **kwargs)


async def validate_prompt(*args, **kwargs):
    if fails("validate"):
        raise RuntimeError(CUDA)
    return await VALIDATE(*args, **kwargs)


def task_done(*args, **kwargs):
    if fails("done"):
        raise torch.AcceleratorError(CUDA)
    return DONE(*args, **kwargs)


def virtual_memory():
    memory = MEMORY()
    return memory._replace(available=100_000_000) if json.loads(PLAN.read_text()).get("little_memory") else memory


def calculate_weight(self, weight, *args, **kwargs):
    return weight if json.loads(PLAN.read_text()).get("ignores_patch") else WEIGHT(self, weight, *args, **kwargs)


WEIGHT, LoRAAdapter.calculate_weight = LoRAAdapter.calculate_weight, calculate_weight
MEMORY, psutil.virtual_memory = psutil.virtual_memory, virtual_memory
SAMPLE, comfy.sample.sample = comfy.sample.sample, sample
VALIDATE, execution.validate_prompt = execution.validate_prompt, validate_prompt
DONE, execution.PromptQueue.task_done = execution.PromptQueue.task_done, task_done
