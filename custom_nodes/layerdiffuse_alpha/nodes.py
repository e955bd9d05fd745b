# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes. Names, inputs, their order, options and outputs are those of huchenlei/ComfyUI-layerdiffuse
1.0.4, so its workflows run unchanged. Additional inputs are optional and come last.
"""

from .apply import LayeredDiffusionApply, LayeredDiffusionCondApply, LayeredDiffusionDiffApply
from .decode import LayeredDiffusionDecode, LayeredDiffusionDecodeRGBA, LayeredDiffusionDecodeSplit
from .input import LoadEncodedImage
from .output import SaveAlphaImageWebsocket
from .sd15 import LayeredDiffusionCondJointApply, LayeredDiffusionJointApply

NODE_CLASS_MAPPINGS = {
    "LayeredDiffusionApply": LayeredDiffusionApply,
    "LayeredDiffusionJointApply": LayeredDiffusionJointApply,
    "LayeredDiffusionCondApply": LayeredDiffusionCondApply,
    "LayeredDiffusionCondJointApply": LayeredDiffusionCondJointApply,
    "LayeredDiffusionDiffApply": LayeredDiffusionDiffApply,
    "LayeredDiffusionDecode": LayeredDiffusionDecode,
    "LayeredDiffusionDecodeRGBA": LayeredDiffusionDecodeRGBA,
    "LayeredDiffusionDecodeSplit": LayeredDiffusionDecodeSplit,
    "LoadEncodedImage": LoadEncodedImage,
    "SaveAlphaImageWebsocket": SaveAlphaImageWebsocket,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "LayeredDiffusionApply": "Layer Diffuse Apply",
    "LayeredDiffusionJointApply": "Layer Diffuse Joint Apply",
    "LayeredDiffusionCondApply": "Layer Diffuse Cond Apply",
    "LayeredDiffusionCondJointApply": "Layer Diffuse Cond Joint Apply",
    "LayeredDiffusionDiffApply": "Layer Diffuse Diff Apply",
    "LayeredDiffusionDecode": "Layer Diffuse Decode",
    "LayeredDiffusionDecodeRGBA": "Layer Diffuse Decode (RGBA)",
    "LayeredDiffusionDecodeSplit": "Layer Diffuse Decode (Split)",
    "LoadEncodedImage": "Load Image (Base64)",
    "SaveAlphaImageWebsocket": "Save Alpha Image (Websocket)",
}
