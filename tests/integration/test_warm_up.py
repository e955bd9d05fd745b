"""The picture before the first job: it must be transparent, and xformers must not stand in its way."""

import logging

import fake_comfyui
import pytest

from handler.comfyui.gpu import Gpu
from handler.comfyui.process import ComfyProcess
from handler.errors import NotTransparent
from handler.job.generate import Generator
from handler.job.preparation import prepare
from handler.job.profiles import load

GPU = Gpu("NVIDIA GeForce RTX 4090", 25_757_220_864, "570.124.06", (12, 8), (8, 9))
DEVICE = "cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync"
# A machine whose xformers is broken: NaN, from which no picture can be made. The CPU passes for a GPU.
BROKEN_XFORMERS = f"""
import comfy.model_management
import nodes
from comfy.cli_args import args

comfy.model_management.get_torch_device_name = lambda device: {DEVICE!r}

if not args.use_pytorch_cross_attention:
    sample = nodes.common_ksampler

    def broken(*arguments, **options):
        (latent,) = sample(*arguments, **options)
        return ({{**latent, "samples": latent["samples"] * float("nan")}},)

    nodes.common_ksampler = broken
NODE_CLASS_MAPPINGS = {{}}
"""


def events(caplog, event):
    return [record for record in caplog.records if record.getMessage() == event]


def generator_with(comfyui, settings, **changes):
    changed = settings.model_copy(update=changes)
    return Generator(load(changed), comfyui, changed)


@pytest.mark.parametrize(("warm_up", "steps"), [("auto", 1), ("fast", 1), ("full", 20)])
def test_warm_up_draws_the_picture_of_its_mode(comfyui, settings, caplog, warm_up, steps):
    """On a CPU `auto` is fast. The log has one line with the seconds of each stage and the alpha."""
    caplog.set_level(logging.INFO)
    prepare(generator_with(comfyui, settings, warm_up=warm_up))
    (record,) = events(caplog, "warm-up finished")
    assert record.mode == ("full" if steps > 1 else "fast")
    assert events(caplog, "started")[0].seconds["warm"] > 0
    if steps > 1:
        assert record.stages.keys() >= {"Sampler", "VAE Decode", "Alpha Decode", "Alpha PNG", "total"}
        assert record.alpha["transparent"] > 0.3


def test_without_warm_up_nothing_is_drawn(comfyui, settings, caplog):
    """WARM_UP=off only starts ComfyUI."""
    caplog.set_level(logging.INFO)
    prepare(generator_with(comfyui, settings, warm_up="off"))
    assert not events(caplog, "warm-up finished")
    assert events(caplog, "started")[0].seconds.keys() == {"process", "imports", "comfyui_ready", "warm"}


@pytest.fixture
def opaque(weak_patch, comfyui, settings):
    """A generator whose pictures are opaque, as when the patch is not applied."""
    return lambda **changes: generator_with(comfyui, settings, workflows_dir=weak_patch, **changes)


def test_an_opaque_full_warm_up_is_an_error(opaque):
    """A worker whose pictures are opaque does not become ready."""
    with pytest.raises(NotTransparent):
        prepare(opaque(warm_up="full"))


def test_a_fast_warm_up_may_be_opaque(opaque):
    """One step shows nothing yet; it only loads the models."""
    prepare(opaque(warm_up="fast"))  # raises nothing


@pytest.fixture(params=["stand-in", pytest.param("ComfyUI", marks=pytest.mark.soak)])
def broken_xformers(request, settings, with_pack, monkeypatch, tmp_path):
    """Settings of a machine with a GPU and an xformers that produces NaN; ComfyUI or one that speaks its protocol."""
    monkeypatch.setattr("handler.job.fitness.gpus", lambda: [GPU])
    on_gpu = settings.model_copy(update={"device": "gpu"})
    if request.param == "stand-in":
        folder = tmp_path / "comfyui"
        fake_comfyui.install(folder, graphs=["ValueError: NaN"], device=DEVICE)
        (folder / "venv" / "lib" / "python3.11" / "site-packages" / "xformers").mkdir(parents=True)
        return on_gpu.model_copy(update={"comfyui_dir": folder})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as on a CPU; two threads on busy cores take several times as long
    changed = with_pack(on_gpu, "broken_xformers", BROKEN_XFORMERS)
    return changed.model_copy(update={"comfyui_args": f"--cpu {changed.comfyui_args}"})


def test_a_warm_up_that_xformers_breaks_is_repeated_with_pytorchs_attention(broken_xformers, caplog):
    """ATTENTION=auto: the second warm-up succeeds, the log says why, and the next start keeps PyTorch's attention."""
    caplog.set_level(logging.INFO)
    with ComfyProcess(broken_xformers) as process:
        prepare(Generator(load(broken_xformers), process, broken_xformers))
        (repeated,) = events(caplog, "repeating the warm-up with PyTorch's attention")
        assert "NaN" in repeated.reason
        assert [record.attention for record in events(caplog, "ComfyUI starting")] == [
            "xformers: installed",
            f"pytorch: the warm-up failed with xformers: {repeated.reason}",
        ]
        assert events(caplog, "warm-up finished")[0].mode == "full"
        process.stop()


def test_attention_that_is_set_is_not_changed(broken_xformers):
    """ATTENTION=xformers: the failure is the worker's."""
    chosen = broken_xformers.model_copy(update={"attention": "xformers"})
    process = ComfyProcess(chosen)
    assert process.options().attention == "xformers"
    assert not process.avoid_xformers("NaN")
