"""`layerdiffuse-alpha doctor` on this installation and on damaged ones."""

import contextlib
import json
import re
import shutil
import struct

import fake_comfyui
import psutil
import pytest
from server import ROOT

from handler.cli import checks
from handler.cli.checks import Finding, Severity, findings
from handler.deadline import Deadline
from handler.settings import Settings
from handler.weights import header


def mark_as_merged(source, target):
    """Copies a checkpoint, with the metadata that scripts/merge-patch writes (test_merge_patch.py)."""
    content = source.read_bytes()
    end = 8 + struct.unpack_from("<Q", content)[0]
    head = json.dumps(json.loads(content[8:end]) | {"__metadata__": {header.MERGED: "{}"}}).encode()
    target.write_bytes(struct.pack("<Q", len(head)) + head + content[end:])


@pytest.fixture
def running_comfyui(comfyui, monkeypatch):
    """Makes the command draw with the ComfyUI that already runs."""
    monkeypatch.setattr(checks, "ComfyProcess", lambda _: contextlib.nullcontext(comfyui))


@pytest.mark.usefixtures("running_comfyui")
def test_doctor_passes_on_a_working_installation(command_line, tmp_path):
    """It checks everything and draws a picture."""
    done = command_line("doctor", PORT="0", DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "ok  test picture  128x128" in done.stdout


@pytest.mark.usefixtures("without_probe")
def test_doctor_names_what_is_wrong(command_line, tmp_path):
    """For a truncated weight file and for a missing ComfyUI, it says how to fix it and exits with 1."""
    shutil.copytree(ROOT / "models", tmp_path / "models")
    weights = tmp_path / "models" / "layer_model" / "tiny_transparent_decoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = command_line("doctor", "--quick", MODELS_DIR=str(tmp_path / "models"), PORT="0")
    assert done.returncode == 1
    fault = rf"wrong  \S*{weights.name}  has \d+ bytes, its header says \d+\n\s+-> layerdiffuse-alpha models"
    assert re.search(fault, done.stdout)
    done = command_line("doctor", COMFYUI_DIR=str(tmp_path))
    assert (done.returncode, "-> run scripts/setup" in done.stdout) == (1, True)


@pytest.mark.usefixtures("without_probe")
def test_doctor_tells_a_merged_checkpoint_from_another(tmp_path):
    """The patch must be applied exactly once: in the weights with the profile `merged`, otherwise by the graph."""
    checkpoints, patches = tmp_path / "checkpoints", tmp_path / "layer_model"
    shutil.copytree(ROOT / "models" / "layer_model", patches)
    shutil.copy(patches / "tiny_transparent_decoder.safetensors", patches / "vae_transparent_decoder.safetensors")
    checkpoints.mkdir()
    plain = ROOT / "models" / "checkpoints" / "tiny_sdxl.safetensors"
    merged = checkpoints / "sd_xl_base_1.0_transparent.safetensors"
    mark_as_merged(plain, merged)

    def found(profile: str) -> Finding:
        settings = Settings(models_dir=tmp_path, profile=profile, port=0)
        return next(
            finding for finding in findings(settings, draws=False) if finding.subject in {"patch", "Transparency Patch"}
        )

    assert (found("merged").severity, found("merged").fact) == (Severity.OK, "merged into the checkpoint")
    shutil.copy(merged, checkpoints / plain.name)
    assert found("tiny").severity is Severity.WRONG
    assert "would apply it again" in found("tiny").fact
    shutil.copy(plain, merged)
    assert found("merged").severity is Severity.WRONG
    assert "does not have the patch" in found("merged").fact


@pytest.mark.usefixtures("running_comfyui", "without_probe")
def test_doctor_finds_a_comfyui_that_ignores_the_patch(command_line, comfyui, planned_fault, tmp_path):
    """The files and the graph are fine, but the node pack finds that modules return what they do without the patch."""
    client = comfyui.client(Deadline(120))
    client.free()  # a patch that was found to be applied is not measured again
    planned_fault(ignores_patch=True)
    done = command_line("doctor", PORT="0", DATA_DIR=str(tmp_path))
    planned_fault()
    client.free()  # of the model that was loaded without its patch
    assert done.returncode == 1
    fault = r"wrong  patch  KSampler failed with layerdiffuse_alpha\.proof\.PatchNotApplied: this ComfyUI \(0\.30\.0\)"
    assert re.search(fault, done.stdout), done.stdout
    assert str(ROOT) not in done.stdout


@pytest.mark.usefixtures("without_probe")
def test_doctor_starts_its_own_comfyui_and_stops_it(command_line, tmp_path):
    """ComfyUI is a child that speaks its protocol; none is left."""
    fake_comfyui.install(tmp_path / "comfyui")
    before = psutil.Process().children()
    done = command_line("doctor", PORT="0", DATA_DIR=str(tmp_path), COMFYUI_DIR=str(tmp_path / "comfyui"))
    assert done.returncode == 0, done.stdout
    assert psutil.Process().children() == before
