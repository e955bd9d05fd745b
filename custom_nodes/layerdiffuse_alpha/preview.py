# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures on the output node, for people who run a graph in the GUI."""

import uuid
from pathlib import Path
from typing import Any

import folder_paths

FEATURE = "supports_preview_metadata"  # announced by the GUI's connection, not by a worker's


def save(server: Any, encoded: bytes, suffix: str) -> list[dict[str, str]]:
    """Returns the `ui` images of one picture, which it writes to the temp folder; an empty list without a GUI.

    Args:
        server: the PromptServer.
        encoded: the file's bytes.
        suffix: of the file's name, "png" or "webp".
    """
    client = getattr(server, "sockets_metadata", {}).get(server.client_id, {})
    if not client.get("feature_flags", {}).get(FEATURE):
        return []
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"alpha_{uuid.uuid4().hex}.{suffix}"
    (folder / name).write_bytes(encoded)
    return [{"filename": name, "subfolder": "", "type": "temp"}]
