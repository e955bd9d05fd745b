"""Makes the real ComfyUI importable, on the CPU, with our packs and the tiny weights."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def prepare() -> None:
    """Puts ComfyUI and the packs on the path, and sets the arguments that ComfyUI reads when it is imported."""
    app = str(ROOT / ".comfyui" / "app")
    if app in sys.path:
        return
    arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", str(ROOT / ".comfyui" / "data")]
    sys.path[:0] = [app, str(ROOT / "custom_nodes")]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args

    sys.argv = arguments
