# SPDX-License-Identifier: GPL-3.0-or-later
"""LayerDiffuse nodes for current ComfyUI, drop-in for huchenlei/ComfyUI-layerdiffuse."""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
