"""`layerdiffuse-alpha doctor` on this installation and on damaged ones."""

import re
import shutil
import subprocess

from server import ROOT, run

from handler.cli import checks
from handler.cli.checks import Finding, Severity, findings
from handler.settings import Settings


def test_doctor_passes_on_a_working_installation(tmp_path):
    """It checks everything and draws a picture."""
    done = run("doctor", PORT="0", DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "ok  test picture  128x128" in done.stdout


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


def test_doctor_tells_a_merged_checkpoint_from_another(tmp_path, monkeypatch):
    """The patch must be applied exactly once: in the weights with the profile `merged`, otherwise by the graph."""
    checkpoints, patches = tmp_path / "checkpoints", tmp_path / "layer_model"
    shutil.copytree(ROOT / "models" / "layer_model", patches)
    shutil.copy(patches / "tiny_transparent_decoder.safetensors", patches / "vae_transparent_decoder.safetensors")
    checkpoints.mkdir()
    plain = ROOT / "models" / "checkpoints" / "tiny_sdxl.safetensors"
    merged = checkpoints / "sd_xl_base_1.0_transparent.safetensors"
    patch = patches / "tiny_transparent_attn.safetensors"
    merge = [ROOT / "scripts" / "merge-patch", "--checkpoint", plain, "--patch", patch, "--output", merged]
    subprocess.run(merge, check=True, capture_output=True, timeout=120)

    # The tests above check PyTorch, which takes seconds each time.
    monkeypatch.setattr(checks, "PROBE", """print('{"torch": "", "xformers": true, "gpus": []}')""")

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


def test_doctor_finds_a_comfyui_that_ignores_the_patch(tmp_path):
    """The files and the graph are fine, but the node pack finds that modules return what they do without the patch."""
    comfyui = tmp_path / "comfyui"
    shutil.copytree(ROOT / ".comfyui" / "app", comfyui / "app")
    for name in ("venv", "data"):
        (comfyui / name).symlink_to(ROOT / ".comfyui" / name)
    with (comfyui / "app" / "comfy" / "weight_adapter" / "lora.py").open("a") as adapter:
        adapter.write("\n\nLoRAAdapter.calculate_weight = lambda self, weight, *_, **__: weight\n")
    done = run("doctor", PORT="0", DATA_DIR=str(tmp_path / "data"), COMFYUI_DIR=str(comfyui))
    assert done.returncode == 1
    fault = r"wrong  patch  KSampler failed with layerdiffuse_alpha\.proof\.PatchNotApplied: this ComfyUI \(0\.30\.0\)"
    assert re.search(fault, done.stdout), done.stdout
    assert str(ROOT) not in done.stdout
