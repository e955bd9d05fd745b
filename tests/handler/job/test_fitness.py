"""A machine that cannot draw is reported with the reason, before ComfyUI is started."""

import errno
import os
import shutil

import pytest

from handler.errors import ModelMissing, NoGpu, StorageUnavailable
from handler.job import fitness, profiles
from handler.settings import ROOT, Settings


def loaded(**settings):
    chosen = Settings(**settings)
    return chosen, profiles.load(chosen)


@pytest.fixture
def no_devices(monkeypatch):
    """A machine without device files of a GPU."""
    monkeypatch.setattr(fitness, "has_gpu", lambda: False)


def test_sdxl_does_not_run_on_the_cpu_unless_asked_to(no_devices):
    """With DEVICE=auto, SDXL without a GPU is an error that names the driver; DEVICE=cpu allows it."""
    with pytest.raises(NoGpu, match=r"profile sdxl needs a GPU: .*libnvidia-ml.*set DEVICE=cpu$"):
        fitness.check_gpu(*loaded(profile="sdxl"))
    fitness.check_gpu(*loaded(profile="sdxl", device="cpu"))


def test_the_tiny_model_needs_a_gpu_only_if_asked_to(no_devices):
    """DEVICE=auto takes the CPU for the tiny model; DEVICE=gpu insists."""
    fitness.check_gpu(*loaded(profile="tiny"))
    with pytest.raises(NoGpu):
        fitness.check_gpu(*loaded(profile="tiny", device="gpu"))


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES is '', which hides every GPU"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "CUDA_VISIBLE_DEVICES is '-1'"),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, "NVIDIA_VISIBLE_DEVICES is 'void' in this container"),
        ({}, "NVIDIA_VISIBLE_DEVICES is not set in this container"),
    ],
)
def test_a_hidden_gpu_is_named_as_such(no_devices, monkeypatch, variables, reason):
    """The two variables that take GPUs away are named, NVIDIA's only in a container."""
    monkeypatch.setattr(fitness, "CONTAINER_MARKS", ("/",))
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NoGpu, match=reason):
        fitness.check_gpu(*loaded(profile="sdxl"))


def gpu(**facts):
    from handler.comfyui.gpu import Gpu

    facts = {"driver": "570.124.06", "cuda": (12, 8), "compute_capability": (8, 9)} | facts
    return Gpu(name="NVIDIA GeForce RTX 4090", memory_bytes=25_757_220_864, **facts)


def test_a_driver_that_is_too_old_is_named(monkeypatch):
    """A driver for CUDA 11 cannot run PyTorch's CUDA 12; one for any CUDA 12 can."""
    monkeypatch.setattr(fitness, "gpus", lambda: [gpu(driver="470.57.02", cuda=(11, 4))])
    with pytest.raises(NoGpu, match=r"driver 470\.57\.02 supports CUDA 11\.4, PyTorch needs 12\.0"):
        fitness.check_gpu(*loaded(profile="sdxl"))
    monkeypatch.setattr(fitness, "gpus", lambda: [gpu(cuda=(12, 2))])
    fitness.check_gpu(*loaded(profile="sdxl"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.unlink(), "missing or unreadable in MODELS_DIR, WEIGHTS_DIRS and HF_CACHE_DIR$"),
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), r"has \d+ bytes, its header says \d+$"),
        (lambda file: file.write_bytes(b"<html>"), "not a complete safetensors file$"),
        (lambda file: (file.unlink(), file.symlink_to("/proc/self/mem")), "cannot be read: |not a complete"),
    ],
)
def test_weights_that_cannot_be_used_are_named(tmp_path, damage, reason):
    """A file that is missing, cut short, something else or unreadable, each by its place below models/."""
    shutil.copytree(ROOT / "models", tmp_path / "models")
    damage(tmp_path / "models" / "layer_model" / "tiny_transparent_decoder.safetensors")
    with pytest.raises(ModelMissing, match=f"models/layer_model/tiny_transparent_decoder.safetensors.* ?{reason}"):
        fitness.check_weights(*loaded(profile="tiny", models_dir=tmp_path / "models"))


def test_a_full_disk_is_named(monkeypatch):
    """Without room for temporary files the error has the system's reason."""

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(StorageUnavailable, match="temporary files cannot be used: No space left on device"):
        fitness.check_disk()
