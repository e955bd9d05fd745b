"""What the program says about itself."""

import tomllib

import handler
from handler.settings import ROOT


def test_versions(command_line):
    """`--version` is one line; `version` has the parts, without starting any of them."""
    assert command_line("--version").stdout == f"layerdiffuse-alpha {handler.__version__}\n"
    done = command_line("version")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.replace("node pack", "node_pack").splitlines())
    assert set(lines) == {"layerdiffuse-alpha", "Python", "ComfyUI", "PyTorch", "node_pack", "model"}
    assert lines["ComfyUI"].count(".") == lines["PyTorch"].count(".") == 2
    assert lines["model"] == "models/checkpoints/tiny_sdxl.safetensors, profile tiny"
    assert done.stderr == ""


def test_versions_of_what_is_missing(command_line, tmp_path):
    """An installation without ComfyUI and weights is described, too."""
    done = command_line("version", COMFYUI_DIR=str(tmp_path), MODELS_DIR=str(tmp_path), PROFILE="sdxl")
    assert "ComfyUI             not installed\nPyTorch             not installed\n" in done.stdout
    assert "profile sdxl (missing: models/checkpoints/" in done.stdout


def test_help_is_grouped_and_completion_is_offered(command_line):
    """Every command is in a group; the script for bash calls the installed program."""
    shown = command_line("--help").stdout
    for group in ("Pictures and jobs", "Worker", "Installation"):
        assert f"─ {group} " in shown
    assert "─ Commands " not in shown
    completion = command_line("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    (program,) = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    assert f"-F _{program.replace('-', '_')}_completion {program}" in completion.stdout
