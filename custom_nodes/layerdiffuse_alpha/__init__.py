# SPDX-License-Identifier: GPL-3.0-or-later
"""LayerDiffuse nodes for current ComfyUI, drop-in for huchenlei/ComfyUI-layerdiffuse."""

import logging

try:
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
except ModuleNotFoundError as exc:
    # If it were raised, ComfyUI would show a traceback without any version.
    if not (exc.name or "").startswith("comfy.weight_adapter"):
        raise
    from comfyui_version import __version__

    logging.warning("layerdiffuse_alpha needs ComfyUI 0.3.30 or newer, this is %s", __version__)
    NODE_CLASS_MAPPINGS = NODE_DISPLAY_NAME_MAPPINGS = {}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
