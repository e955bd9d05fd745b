"""Pictures on the output node are for the GUI; the connection of a worker gets none, and no file is written."""

from types import SimpleNamespace

import folder_paths
import pytest
from layerdiffuse_alpha import preview


@pytest.fixture
def temp_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    return tmp_path


def test_the_gui_gets_the_same_bytes(temp_folder):
    """The GUI announces that it can show previews; the file that it is sent to has the picture."""
    metadata = {"gui": {"feature_flags": {"supports_preview_metadata": True}}}
    (shown,) = preview.save(SimpleNamespace(client_id="gui", sockets_metadata=metadata), b"bytes", "png")
    assert shown["type"] == "temp"
    assert (temp_folder / shown["filename"]).read_bytes() == b"bytes"


@pytest.mark.parametrize("metadata", [{}, {"worker": {"feature_flags": {}}}])
def test_a_worker_leaves_no_file(temp_folder, metadata):
    """A worker's connection announces nothing."""
    assert preview.save(SimpleNamespace(client_id="worker", sockets_metadata=metadata), b"bytes", "png") == []
    assert list(temp_folder.iterdir()) == []
