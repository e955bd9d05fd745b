"""Draws docs/images/hero.png: soft things over two grounds, and what the old pack gives on the same ComfyUI.

PYTHONPATH=FOLDER .venv/bin/python tools/hero.py --old-pack .comfyui/upstream/ComfyUI-layerdiffuse [--out PNG]

`scripts/setup --with-upstream` fetches the old pack. It imports diffusers and opencv-python-headless, which FOLDER must
have for the Python of ComfyUI's environment. Its own decoder does not run on this ComfyUI (it calls a method of
JoinImageWithAlpha that no longer exists), so its pictures are decoded by our node.
"""

import argparse
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from handler.comfyui.process import ComfyProcess  # noqa: E402
from handler.deadline import Deadline  # noqa: E402
from handler.job import profiles  # noqa: E402
from handler.settings import Settings  # noqa: E402
from handler.weights import locate  # noqa: E402

CASES = (("a picture of a blue glass ball", 201), ("a picture of purple smoke", 156), ("one single teal feather", 154))
PATCH_NODE = "LayeredDiffusionApply"
OLD_PATCH_NODE = "OldPackApply"
OLD_CONFIG = "SDXL, Attention Injection"
OLD_PATCH_FILE = "layer_xl_transparent_attn.safetensors"  # the only name under which the old pack looks for it
OLD_PACK = """
import importlib, sys
sys.path.insert(0, {parent!r})
pack = importlib.import_module({name!r})
sys.modules[{name!r} + ".layered_diffusion"].layer_model_root = {models!r}
NODE_CLASS_MAPPINGS = {{{node!r}: pack.NODE_CLASS_MAPPINGS[{original!r}]}}
"""
TILE = 312  # pixels
MARGIN = 1 / 16  # of the object's longer side, left around it
VISIBLE = 24  # alpha of the faintest part that belongs to the object
GAP = 8
TITLE = 30
SQUARE = 12
FONT_SIZE = 17

Rgb = npt.NDArray[np.float64]


def main() -> int:
    """Draws the pictures and puts them together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old-pack", type=Path, required=True, help="checkout of the old pack")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "hero.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = draw(options.old_pack.resolve(), Path(folder))
    for (prompt, seed), picture in zip(CASES, theirs, strict=True):
        print(f"{prompt}, seed {seed}, old pack: smallest alpha {picture.getextrema()[3][0]} of 255")
    hero({"layerdiffuse-alpha": ours, "the old pack, same ComfyUI, same seeds": theirs}).save(
        options.out, optimize=True
    )
    return 0


def draw(old_pack: Path, folder: Path) -> tuple[list[Image.Image], list[Image.Image]]:
    """Returns the pictures of our pack and of the old one, from one ComfyUI that has loaded both."""
    settings = Settings(profile="tiny", device="cpu", log_level="ERROR")
    workflow = profiles.load(settings)
    patch = next(file for file in workflow.models if file.folder == "layer_model" and "attn" in file.name)
    found = locate.find(patch, settings)
    if found is None:
        raise FileNotFoundError(f"{patch} missing")
    (folder / OLD_PATCH_FILE).symlink_to(found.path.resolve())
    wrapper = folder / "packs" / "old_pack"
    wrapper.mkdir(parents=True)
    source = OLD_PACK.format(
        parent=str(old_pack.parent),
        name=old_pack.name,
        models=str(folder),
        node=OLD_PATCH_NODE,
        original=PATCH_NODE,
    )
    (wrapper / "__init__.py").write_text(source)
    (folder / "packs.yaml").write_text(f"packs:\n  custom_nodes: {wrapper.parent}\n")
    extra = f"--extra-model-paths-config {folder / 'packs.yaml'}"
    with ComfyProcess(settings.model_copy(update={"comfyui_args": extra})) as comfyui:

        def picture(graph: dict[str, Any]) -> Image.Image:
            deadline = Deadline(240)
            encoded, _ = comfyui.client(deadline).run(graph, workflow.output_node, deadline).result()
            return Image.open(io.BytesIO(encoded)).convert("RGBA")

        graphs = [workflow.render({"prompt": prompt, "seed": seed}) for prompt, seed in CASES]
        ours = [picture(graph) for graph in graphs]
        return ours, [picture(with_old_pack(graph)) for graph in graphs]


def with_old_pack(graph: dict[str, Any]) -> dict[str, Any]:
    """Returns the graph with the old pack's node instead of ours."""
    changed = dict(graph)
    for node_id, node in graph.items():
        if node["class_type"] == PATCH_NODE:
            inputs = {"model": node["inputs"]["model"], "config": OLD_CONFIG, "weight": 1.0}
            changed[node_id] = {**node, "class_type": OLD_PATCH_NODE, "inputs": inputs}
    return changed


def hero(rows: dict[str, list[Image.Image]]) -> Image.Image:
    """Returns the rows of pictures under their titles, each picture over two grounds."""
    columns = len(CASES)
    width = columns * (TILE + GAP) - GAP
    page = Image.new("RGB", (width, len(rows) * (TITLE + TILE + GAP) + TITLE), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(FONT_SIZE)
    boxes = [around_object(picture) for picture in next(iter(rows.values()))]
    for row, (title, pictures) in enumerate(rows.items()):
        top = row * (TITLE + TILE + GAP)
        pen.text((0, top + TITLE // 2), title, "black", font, "lm")
        for column, (picture, box) in enumerate(zip(pictures, boxes, strict=True)):
            # With premultiplied colours, or the invisible colours of transparent pixels would show at edges.
            enlarged = picture.convert("RGBa").resize((TILE, TILE), Image.Resampling.LANCZOS, box).convert("RGBA")
            page.paste(over_grounds(enlarged), (column * (TILE + GAP), top + TITLE))
    for column, (prompt, seed) in enumerate(CASES):
        middle = column * (TILE + GAP) + TILE // 2
        pen.text((middle, page.height - TITLE // 2), f"{prompt}, seed {seed}", "black", font, "mm")
    return page


def around_object(picture: Image.Image) -> tuple[float, float, float, float]:
    """Returns the square around the object, inside the picture: left, top, right and bottom in pixels."""
    rows, columns = np.nonzero(np.asarray(picture)[..., 3] > VISIBLE)
    (top, bottom), (left, right) = ((places.min(), places.max() + 1) for places in (rows, columns))
    side = min(picture.width, (1 + 2 * MARGIN) * max(right - left, bottom - top))
    x, y = (min(max(middle - side / 2, 0), picture.width - side) for middle in ((left + right) / 2, (top + bottom) / 2))
    return x, y, x + side, y + side


def over_grounds(picture: Image.Image) -> Image.Image:
    """Returns the picture with a checkerboard behind its lower left half and a scene behind its upper right half."""
    y, x = np.mgrid[0:TILE, 0:TILE]
    ground = Image.fromarray(np.where((x > y)[..., None], scene(), checkerboard()).astype(np.uint8))
    ground.paste(picture, mask=picture)
    return ground


def checkerboard() -> Rgb:
    """Returns squares in two greys, TILE x TILE x 3, 0 to 255."""
    y, x = np.mgrid[0:TILE, 0:TILE] // SQUARE
    return np.repeat(np.where((x + y) % 2, 205.0, 250.0)[..., None], 3, axis=2)


def scene() -> Rgb:
    """Returns a sky with a sun over hills, TILE x TILE x 3, 0 to 255."""
    y, x = np.mgrid[0:TILE, 0:TILE] / TILE
    sky = np.array([63, 127, 201.0]) * (1 - y[..., None]) + np.array([214, 230, 240.0]) * y[..., None]
    glow = np.exp(-(((x - 0.8) ** 2 + (y - 0.18) ** 2) / 0.012))[..., None]
    sky = sky * (1 - glow) + np.array([255, 240, 190.0]) * glow
    far = y > 0.72 + 0.05 * np.sin(7 * x)
    near = y > 0.84 + 0.04 * np.sin(5 * x + 2)
    return np.where(near[..., None], [58, 92, 58], np.where(far[..., None], [104, 143, 88], sky))


if __name__ == "__main__":
    sys.exit(main())
