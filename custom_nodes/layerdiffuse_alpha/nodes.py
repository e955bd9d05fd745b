# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes. Names, inputs, their order, options and outputs are those of huchenlei/ComfyUI-layerdiffuse
1.0.4, so that its workflows run unchanged; further inputs are ours, optional and last.
"""

from .apply import LayeredDiffusionApply
from .decode import LayeredDiffusionDecode, LayeredDiffusionDecodeRGBA
from .output import SaveAlphaImageWebsocket

NODE_CLASS_MAPPINGS = {
    "LayeredDiffusionApply": LayeredDiffusionApply,
    "LayeredDiffusionDecode": LayeredDiffusionDecode,
    "LayeredDiffusionDecodeRGBA": LayeredDiffusionDecodeRGBA,
    "SaveAlphaImageWebsocket": SaveAlphaImageWebsocket,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "LayeredDiffusionApply": "Layer Diffuse Apply",
    "LayeredDiffusionDecode": "Layer Diffuse Decode",
    "LayeredDiffusionDecodeRGBA": "Layer Diffuse Decode (RGBA)",
    "SaveAlphaImageWebsocket": "Save Alpha Image (Websocket)",
}
