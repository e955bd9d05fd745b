"""`layerdiffuse-alpha verify` in full, on the tiny model, and what it says if something is wrong."""

import json
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from handler.cli.verify_verdicts import cost

ROOT = Path(__file__).parents[2]
SECRET = "sk-this-must-not-be-published"


def read(folder):
    file = folder / "verify.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None


@pytest.fixture
def verify(command_line, without_probe):
    """Runs the command in this process: `verify(folder)` returns its exit status, what it printed, and the report."""
    return lambda folder, **more: (command_line("verify", "--report", str(folder), **more), read(folder))


def verdicts(report):
    return {verdict["subject"]: (verdict["severity"], verdict["fact"]) for verdict in report["verdicts"]}


@pytest.fixture(scope="module")
def passed(tmp_path_factory, nvidia_driver):
    """One whole run, on the CPU of a machine whose driver reports a GPU: process, report, page."""
    folder = tmp_path_factory.mktemp("report") / "new"
    settings = {"PROFILE": "tiny", "DEVICE": "cpu", "API_KEYS": SECRET, "LD_LIBRARY_PATH": str(nvidia_driver)}
    command = [sys.executable, "-m", "handler", "verify", "--report", str(folder)]
    process = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False)
    report = read(folder)
    assert process.returncode == 0, process.stdout + process.stderr
    return process, report, (folder / "verify.html").read_text("utf-8")


def test_every_check_has_a_verdict(passed):
    """One line for each on standard output, and the same in the report; on the tiny model all pass."""
    process, report, _ = passed
    found = verdicts(report)
    assert found.keys() >= {
        *("doctor", "fitness", "ComfyUI", "warm-up", "pictures", "same seed twice", "cache"),
        *("time", "GPU memory", "cost"),
        "models/checkpoints/tiny_sdxl.safetensors",
    }
    assert "wrong" not in {severity for severity, _ in found.values()}
    assert report["passed"] is True
    for subject, (_, fact) in found.items():
        assert re.search(rf"{re.escape(subject)}  {re.escape(fact)}", process.stdout), subject
    assert "everything passed, profile tiny" in process.stdout


def test_twelve_pictures_are_transparent(passed):
    """Opaque things, fine parts, glass, smoke and three sizes; each with its alpha and seconds."""
    _, report, _ = passed
    assert verdicts(report)["pictures"] == ("ok", "12 of 12 are transparent")
    assert len(report["pictures"]) == 12
    assert {"hair", "clear glass", "smoke", "wide", "tall", "large"} <= {entry["name"] for entry in report["pictures"]}
    assert all(entry["alpha"]["transparent"] > 0.05 and entry["seconds"]["total"] > 0 for entry in report["pictures"])


def test_the_patch_is_measured(passed):
    """The node pack says how much of the patch's effect it found in the running model."""
    _, report, _ = passed
    assert report["patch"]["patch"] == "tiny_transparent_attn.safetensors"
    assert report["patch"]["shares"] == pytest.approx([1, 1, 1], abs=0.05)
    severity, fact = verdicts(report)["patch"]
    assert severity == "ok"
    assert fact.startswith(f"applied to {report['patch']['keys']} weights; 3 measured: ")


def test_the_same_seed_draws_the_same_picture(passed):
    """The first picture is drawn once more, after the others, so that it does not come from ComfyUI's cache."""
    assert verdicts(passed[1])["same seed twice"] == ("ok", "the same bytes")


def test_the_report_measures(passed):
    """Seconds of each stage and of a cold start, GPU memory, and the cost at the GPU's price."""
    _, report, _ = passed
    assert report["stages"].keys() >= {"Sampler", "VAE Decode", "Alpha Decode", "total"}
    stages = ["PyTorch, CUDA", "ComfyUI, node packs", "until it answers"]
    assert list(report["cold_start"])[:4] == [*stages, "Checkpoint"]
    assert all(report["cold_start"][stage] > 0 for stage in stages)
    assert report["cold_start"]["in all"] == pytest.approx(sum(report["cold_start"].values()) / 2, rel=0.1)
    assert report["gpu_memory"] == {"before_bytes": 500_000_000, "peak_bytes": 500_000_000}
    assert report["cost"]["usd_per_picture"] == pytest.approx(0.00031 * report["stages"]["total"], abs=1e-6)
    assert report["cost"]["usd_per_cold_start"] == pytest.approx(0.00031 * report["cold_start"]["in all"], abs=1e-6)


def test_the_report_describes_the_machine(passed):
    """Versions, options with their reasons, and ComfyUI's own lines about devices and number formats."""
    _, report, _ = passed
    (gpu,) = report["machine"]["gpus"]
    assert (gpu["name"], gpu["driver"], gpu["cuda"]) == ("NVIDIA GeForce RTX 4090", "570.124.06", "12.8")
    assert report["versions"].keys() == {"layerdiffuse_alpha", "comfyui", "torch"}
    assert report["options"]["vram"] == "none: ComfyUI runs on the CPU"
    assert any(line.startswith("VAE load device: cpu") for line in report["comfyui"])
    assert {weight["path"]: weight["is_listed"] for weight in report["weights"]} == {
        "models/checkpoints/tiny_sdxl.safetensors": False,
        "models/layer_model/tiny_transparent_attn.safetensors": False,
        "models/layer_model/tiny_transparent_decoder.safetensors": False,
    }


def test_the_report_can_be_published(passed):
    """No path, host name or key is in either file, and the page needs no other file."""
    _, report, page = passed
    written = re.sub(r"url\(data:[^)]*\)", "", page)  # a picture's base64 may contain a short host name by chance
    for text in (json.dumps(report), written):
        assert str(ROOT) not in text
        assert str(Path.home()) + "/" not in text
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
        assert SECRET not in text
    assert not re.search(r"(?:src|href)=|https?://|@import", written)


def test_the_page_shows_each_picture_over_two_backgrounds(passed):
    """Twelve pictures, inlined once each."""
    page = passed[2]
    assert page.count("url(data:image/png;base64,") == 12
    assert page.count('<div class="light"></div><div class="dark"></div>') == 12


def test_missing_weights_are_named_with_the_remedy(verify, tmp_path):
    """Nothing is drawn, and the report says why."""
    (tmp_path / "models").mkdir()
    process, report = verify(tmp_path / "report", PROFILE="sdxl", MODELS_DIR=str(tmp_path / "models"))
    assert process.returncode == 1
    found = verdicts(report)
    assert found["models/checkpoints/sd_xl_base_1.0.safetensors"] == ("wrong", "missing")
    assert found["pictures"] == ("wrong", "not drawn, because of what failed above")
    assert (report["gpu_memory"], report["cost"]) == (None, {})
    assert "layerdiffuse-alpha models fetch" in process.stdout


def test_a_wrong_weight_file_is_named_with_both_hashes(verify, tmp_path):
    """A file under SDXL's name that is not the listed one."""
    layers = tmp_path / "models" / "layer_model"
    layers.mkdir(parents=True)
    head = b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'
    (layers / "vae_transparent_decoder.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"xx")
    _, report = verify(tmp_path / "report", PROFILE="sdxl", MODELS_DIR=str(tmp_path / "models"))
    (fact,) = (
        verdict["fact"]
        for verdict in report["verdicts"]
        if verdict["subject"].endswith("vae_transparent_decoder.safetensors") and "sha256" in verdict["fact"]
    )
    assert "but models.txt says 59dc8feefe40d26b6cb7186aed7af70c60d94ac4f9db8ebe7f121a01ba27a2fc" in fact


def test_without_comfyui_the_report_says_how_to_install_it(verify, tmp_path):
    """The rest is not tried."""
    process, report = verify(tmp_path / "report", COMFYUI_DIR=str(tmp_path))
    assert process.returncode == 1
    assert verdicts(report)["ComfyUI"] == ("wrong", "not installed in COMFYUI_DIR")
    assert "scripts/setup" in process.stdout


def test_a_comfyui_that_does_not_start_is_a_verdict(verify, tmp_path):
    """Its last lines are in the report."""
    process, report = verify(tmp_path / "report", COMFYUI_ARGS="--no-such-flag")
    assert process.returncode == 1
    severity, fact = verdicts(report)["ComfyUI"]
    assert severity == "wrong"
    assert fact.startswith("comfyui_unavailable: ")
    assert any("no-such-flag" in line for line in report["comfyui_tail"])


def test_a_folder_that_cannot_be_written_is_found_first(verify, tmp_path):
    """Before minutes of work."""
    (tmp_path / "file").touch()
    process, report = verify(tmp_path / "file" / "report")
    assert (process.returncode, report) == (2, None)
    assert "choose another folder with --report" in process.stderr


@pytest.mark.parametrize(
    ("gpu", "usd"), [("NVIDIA L4", 0.00019), ("NVIDIA L40S", None), ("NVIDIA GeForce RTX 3090", 0.00019), ("cpu", None)]
)
def test_a_price_is_that_of_the_gpu(gpu, usd):
    """An L40S is not an L4."""
    assert cost(gpu, 2.0, 30.0).get("usd_per_second") == usd


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_works_in_a_browser(passed, browser, tmp_path, scheme):
    """On a phone it fits, every picture is painted, nothing is loaded or logged, and both schemes can be read."""
    file = tmp_path / "verify.html"
    file.write_text(passed[2], "utf-8")
    page = browser.new_page(color_scheme=scheme, viewport={"width": 400, "height": 800})
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda line: complaints.append(line.text))
    page.goto(file.as_uri())
    painted = page.locator(".pair div").evaluate_all(
        "boxes => boxes.map(box => getComputedStyle(box).backgroundImage.startsWith('url(\"data:'))"
    )
    assert painted == [True] * 24
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    assert complaints == []
    text, under = page.evaluate("(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))")
    brightness = [sum(map(int, re.findall(r"\d+", colour))) for colour in (text, under)]
    assert (brightness[0] < 150 and brightness[1] > 600) == (scheme == "light")
    assert (brightness[0] > 600 and brightness[1] < 150) == (scheme == "dark")
