"""A LoRA for the tiny model under the name of the Lightning LoRA: random, so it only shows that it is applied."""

import json
import random
import struct

from handler.settings import ROOT
from handler.weights import header

NAME = "sdxl_lightning_4step_lora.safetensors"
PREFIX, SUFFIX = "model.diffusion_model.", ".attn1.to_q.weight"
RANK = 2


def write(folder):
    """Writes the file below `folder`, a models folder, and returns the folder."""
    shapes = header.shapes(header.read(ROOT / "models/checkpoints/tiny_sdxl.safetensors"))
    numbers = random.Random(1)
    entries, body = {}, b""
    for name in sorted(name for name in shapes if name.startswith(PREFIX) and name.endswith(SUFFIX)):
        rows, columns = shapes[name]
        for part, shape in (("lora_up", [rows, RANK]), ("lora_down", [RANK, columns])):
            data = struct.pack(f"<{shape[0] * shape[1]}f", *(numbers.gauss(0, 0.5) for _ in range(shape[0] * shape[1])))
            key = "diffusion_model." + name.removeprefix(PREFIX).removesuffix(".weight") + f".{part}.weight"
            entries[key] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
            body += data
    head = json.dumps(entries).encode()
    (folder / "loras").mkdir(parents=True, exist_ok=True)
    (folder / "loras" / NAME).write_bytes(struct.pack("<Q", len(head)) + head + body)
    return folder
