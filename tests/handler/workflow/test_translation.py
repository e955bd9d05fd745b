"""What the GUI shows of a stored graph with a profile, and what is stored of an edit."""

import copy

from handler.workflow.translation import foreign_files, shown_with, stored_from


def test_what_is_shown_is_stored_as_it_was(files):
    """The tiny names and sizes, and the seed of the last run, do not reach the file."""
    graph, params, tiny = files
    shown = shown_with(graph, tiny)
    assert shown["1"]["inputs"]["ckpt_name"] == "tiny_sdxl.safetensors"
    shown["6"]["inputs"]["seed"] = 987
    assert stored_from(shown, graph, tiny, params) == graph


def test_an_edit_is_stored(files):
    """Also of a value that the profile shows differently, and of ids that the GUI gave anew."""
    graph, params, tiny = files
    shown = shown_with(graph, tiny)
    shown["6"]["inputs"]["steps"] = 12
    shown["5"]["inputs"]["width"] = 768
    shown["42"] = shown.pop("1")
    stored = stored_from(shown, graph, tiny, params)
    assert stored["6"]["inputs"]["steps"] == 12
    assert (stored["5"]["inputs"]["width"], stored["5"]["inputs"]["height"]) == (768, 1024)
    assert stored["42"]["inputs"]["ckpt_name"] == "sd_xl_base_1.0.safetensors"


def test_files_of_another_profile_are_found(files):
    """A graph that was exported with the tiny names would draw tiny pictures at SDXL's size."""
    graph, _, tiny = files
    assert foreign_files(graph, {"tiny": tiny}) == []
    exported = shown_with(copy.deepcopy(graph), tiny)
    lines = list(map(str, foreign_files(exported, {"tiny": tiny})))
    assert lines[0] == ("Checkpoint: 'ckpt_name' is tiny_sdxl.safetensors, a file of profile tiny; choose SDXL's file")
    assert len(lines) == 3
