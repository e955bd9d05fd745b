# SPDX-License-Identifier: GPL-3.0-or-later
"""Registers a tiny model family of SDXL's shape, so that the stock loader nodes load it."""

import comfy.supported_models

from .family import TinySDXL

if TinySDXL not in comfy.supported_models.models:
    comfy.supported_models.models.append(TinySDXL)

NODE_CLASS_MAPPINGS: dict[str, type] = {}
