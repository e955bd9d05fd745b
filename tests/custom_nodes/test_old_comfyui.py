"""On a ComfyUI that is too old the pack says so in one line."""

import importlib
import logging
import sys

import layerdiffuse_alpha
import pytest


@pytest.fixture
def imported_without(monkeypatch):
    """Imports the pack again, as if ComfyUI did not have a module."""

    def run(missing):
        for name in list(sys.modules):
            if name == "layerdiffuse_alpha" or name.startswith(("layerdiffuse_alpha.", missing)):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, missing, None)
        return importlib.import_module("layerdiffuse_alpha")

    return run


def test_a_comfyui_before_weight_adapters_is_named_in_one_line(imported_without, caplog):
    """ComfyUI 0.3.29 has no comfy.weight_adapter: no exception, no nodes, one line with both versions."""
    pack = imported_without("comfy.weight_adapter")
    assert pack is not layerdiffuse_alpha
    assert pack.NODE_CLASS_MAPPINGS == pack.NODE_DISPLAY_NAME_MAPPINGS == {}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "layerdiffuse_alpha needs ComfyUI 0.3.30 or newer, this is 0.30.0"
    assert record.exc_info is None


def test_another_missing_module_stays_an_error(imported_without):
    """A fault that has nothing to do with ComfyUI's age is not hidden."""
    with pytest.raises(ModuleNotFoundError, match="safetensors"):
        imported_without("safetensors")
