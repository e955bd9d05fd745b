# SPDX-License-Identifier: GPL-3.0-or-later
"""SDXL with small widths: two CLIP text encoders, a U-Net of three levels, TAESD's autoencoder.

Its checkpoints have the key names of an SDXL checkpoint, and only the widths are different. So the same
graph runs both.
"""

from typing import Any

import comfy.supported_models
import comfy.supported_models_base
from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer

CLIP_WIDTH = 32
SIZE_EMBEDDINGS = 6 * 256  # height, width, crop and target of SDXL, 256 values each

CLIP_CONFIG = {
    "hidden_size": CLIP_WIDTH,
    "intermediate_size": 4 * CLIP_WIDTH,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "projection_dim": CLIP_WIDTH,
}


class TinySDXLClipModel(SDXLClipModel):
    """SDXL's pair of text encoders, both with CLIP_CONFIG's sizes."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
        sizes = {"clip_l_model_config": CLIP_CONFIG, "clip_g_model_config": CLIP_CONFIG}
        super().__init__(device=device, dtype=dtype, model_options={**(model_options or {}), **sizes})


class TinySDXL(comfy.supported_models.SDXL):
    """The tiny family, as an entry of comfy.supported_models.models."""

    unet_config = {
        "model_channels": 64,
        "use_linear_in_transformer": True,
        "transformer_depth": [0, 0, 1, 1, 1],
        "context_dim": 2 * CLIP_WIDTH,
        "adm_in_channels": CLIP_WIDTH + SIZE_EMBEDDINGS,
        "use_temporal_attention": False,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": 16}

    def clip_target(self, state_dict: Any = None) -> comfy.supported_models_base.ClipTarget:
        return comfy.supported_models_base.ClipTarget(SDXLTokenizer, TinySDXLClipModel)
