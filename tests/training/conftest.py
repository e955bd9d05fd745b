"""Makes the node packs' modules importable on their own, as `python -m training` does."""

import sys

import comfyui_library


def pytest_configure() -> None:
    comfyui_library.prepare()
    packs = comfyui_library.ROOT / "custom_nodes"
    sys.path += [str(packs / "tiny_sdxl"), str(packs / "layerdiffuse_alpha")]
