"""A local mirror of the Hugging Face hub: the tiny model's files under SDXL's names, so that nothing is downloaded."""

import contextlib
import functools
import hashlib
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from handler.weights import manifest

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = "checkpoints/sd_xl_base_1.0.safetensors"
STAND_INS = {
    CHECKPOINT: "checkpoints/tiny_sdxl.safetensors",
    "layer_model/layer_xl_transparent_attn.safetensors": "layer_model/tiny_transparent_attn.safetensors",
    "layer_model/vae_transparent_decoder.safetensors": "layer_model/tiny_transparent_decoder.safetensors",
}


def fill(folder: Path) -> str:
    """Copies the files into the folder, and returns a models.txt with their hashes and SDXL's URLs."""
    entries = {str(entry.path): entry for entry in manifest.read(ROOT / "models.txt")}
    lines = ["[sdxl]"]
    for path, stand_in in STAND_INS.items():
        url = entries[path].urls[0]
        place = folder / url.removeprefix("https://huggingface.co/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / "models" / stand_in, place)
        lines.append(f"{hashlib.sha256(place.read_bytes()).hexdigest()} {place.stat().st_size} {path} {url}")
    return "\n".join(lines) + "\n"


def volume_with_checkpoint(folder: Path) -> Path:
    """Returns the folder, in which only the checkpoint is, as on a volume that RunPod's model cache fills."""
    (folder / CHECKPOINT).parent.mkdir(parents=True)
    shutil.copy2(ROOT / "models" / STAND_INS[CHECKPOINT], folder / CHECKPOINT)
    return folder


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves the folder's files on this machine and yields the URL."""
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
