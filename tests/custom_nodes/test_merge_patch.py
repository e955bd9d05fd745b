"""The merge tool against the real loader and the real patching of ComfyUI, on the tiny model."""

import hashlib
import json
import os
import shutil
import signal
import struct
from pathlib import Path

import comfy.model_management
import folder_paths
import nodes as comfy_nodes
import pytest
import torch
from layerdiffuse_alpha import nodes
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from handler.weights import header

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "models" / "checkpoints" / "tiny_sdxl.safetensors"
PATCH = ROOT / "models" / "layer_model" / "tiny_transparent_attn.safetensors"
INPUT_CONV = "diffusion_model.input_blocks.0.0.weight"
CONV = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
HALF_ULP = 2.0**-11  # of fp16, relative


def weights_in_use(model) -> dict[str, torch.Tensor]:
    """Returns the weights as the sampler sees them: loaded by ComfyUI, with patches applied."""
    comfy.model_management.load_models_gpu([model], force_patch_weights=True)
    values = {key: value.detach().float().clone() for key, value in model.model.state_dict().items()}
    comfy.model_management.unload_all_models()
    return values


def raw_tensors(path: Path) -> dict[str, tuple[str, torch.Size, bytes]]:
    return {
        name: (str(tensor.dtype), tensor.shape, tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in load_file(path).items()
    }


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("weight", [1.0, -0.35])
def test_the_loaded_result_is_the_patched_model_rounded_once(merge, model, monkeypatch, tmp_path, weight):
    """CheckpointLoaderSimple loads every weight of the patched model, to half a unit in fp16's last place."""
    status, path = merge(weight=weight)
    assert status == 0
    assert header.is_merged(header.read(path))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], {".safetensors"}))
    found = weights_in_use(comfy_nodes.CheckpointLoaderSimple().load_checkpoint(path.name)[0])
    base = weights_in_use(model)
    (patched,) = nodes.LayeredDiffusionApply().apply(model, "SDXL, Attention Injection", weight, PATCH.name)
    expected = weights_in_use(patched)
    assert found.keys() == expected.keys()
    changed = 0
    for key, value in expected.items():
        # ComfyUI sums in fp32 in another order: a little above half a unit, never a whole one.
        assert ((found[key] - value).abs() <= 1.01 * HALF_ULP * value.abs() + 1e-7).all(), key
        changed += not torch.equal(found[key], base[key])
    assert changed == 56


def test_other_tensors_are_unchanged_and_the_metadata_names_the_patch(merge, tmp_path):
    """Unpatched tensors, their order and the metadata are the checkpoint's; one entry names both inputs."""
    checkpoint = tmp_path / "base.safetensors"
    save_file(load_file(CHECKPOINT), checkpoint, {"modelspec.title": "größe 林檎"})
    status, path = merge(checkpoint, weight=0.5)
    assert status == 0
    before, after = raw_tensors(checkpoint), raw_tensors(path)
    named = {"model." + name.split("::")[0] for name in load_file(PATCH)}
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == named
    assert all(before[name][:2] == after[name][:2] for name in before)
    metadata = metadata_of(path)
    assert json.loads(metadata.pop("layerdiffuse_merged")) == {
        "checkpoint": "base.safetensors",
        "checkpoint_sha256": sha256(checkpoint),
        "patch": PATCH.name,
        "patch_sha256": sha256(PATCH),
        "weight": 0.5,
    }
    assert metadata == {"modelspec.title": "größe 林檎"}


def test_conv_patches_and_both_kinds_on_one_weight_are_summed_in_fp32(merge, tmp_path):
    """A low-rank and a plain difference of one convolution are added before the only rounding."""
    generator = torch.Generator().manual_seed(0)
    base = load_file(CHECKPOINT)["model." + CONV].float()
    outputs, inputs = base.shape[:2]
    up, down = torch.randn(outputs, 4, 1, 1, generator=generator), torch.randn(4, inputs, 3, 3, generator=generator)
    diff = 1e-4 * torch.randn(base.shape, generator=generator)
    patch = {f"{CONV}::lora::0": up, f"{CONV}::lora::1": down, f"{CONV}::diff::0": diff}
    save_file(patch, tmp_path / "conv.safetensors")
    status, path = merge(patch=tmp_path / "conv.safetensors")
    assert status == 0
    exact = base.double() + torch.einsum("or,rikl->oikl", up[..., 0, 0].double(), down.double()) + diff.double()
    found = load_file(path)["model." + CONV].double()
    assert ((found - exact).abs() <= 1.01 * HALF_ULP * exact.abs() + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_result_keeps_the_checkpoints_dtype(merge, tmp_path, dtype):
    """A checkpoint in another floating-point format is merged in that format."""
    save_file({name: tensor.to(dtype) for name, tensor in load_file(CHECKPOINT).items()}, tmp_path / "base.safetensors")
    status, path = merge(tmp_path / "base.safetensors")
    assert status == 0
    half, found = load_file(merge(output="half.safetensors")[1]), load_file(path)
    for name, tensor in found.items():
        assert tensor.dtype == dtype
        assert torch.allclose(tensor.float(), half[name].float(), rtol=2**-7, atol=2**-7), name


def test_a_merged_checkpoint_is_not_merged_again(merge, capsys):
    """A second merge is rejected with a message that names the first, and writes nothing."""
    _, once = merge()
    status, twice = merge(once, output="twice.safetensors")
    assert status == 1
    assert "already has a patch in its weights" in capsys.readouterr().err
    assert not twice.exists()


def absent_key(tensors):
    name = next(iter(tensors))
    for index in "01":
        tensors["diffusion_model.absent.weight::lora::" + index] = tensors.pop(name[:-1] + index)


def wrong_shape(tensors):
    tensors[next(iter(tensors))] = torch.ones(3, 3)


def foreign_name(tensors):
    tensors["unet.weight"] = torch.ones(3)


def padded_input_conv(tensors):
    tensors[f"{INPUT_CONV}::diff::0"] = torch.ones(64, 8, 3, 3)


def nothing(tensors):
    tensors.clear()


def too_much_for_fp16(tensors):
    name = next(name for name in tensors if name.endswith("::0"))
    tensors[name] = torch.full(tensors[name].shape, 3e6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (absent_key, "1 of 56 entries: diffusion_model.absent.weight is not in the model"),
        (wrong_shape, "1 of 56 entries"),
        (foreign_name, "unet.weight is not <model key>"),
        (padded_input_conv, "the diff of (64, 8, 3, 3) is larger than the weight of (64, 4, 3, 3)"),
        (nothing, "wrong.safetensors has no tensors"),
        (too_much_for_fp16, "is not finite in F16 after merging"),
    ],
)
def test_a_patch_that_does_not_fit_completely_is_rejected(merge, tmp_path, capsys, change, reason):
    """A part that does not fit is an error that names it, and no file is left."""
    tensors = load_file(PATCH)
    change(tensors)
    save_file(tensors, tmp_path / "wrong.safetensors")
    status, _ = merge(patch=tmp_path / "wrong.safetensors")
    assert status == 1
    assert reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.safetensors"]


def test_an_fp8_weight_is_rejected(merge, tmp_path, capsys):
    """An fp8 checkpoint is an error, because its rounding and scale are different."""
    key = next(iter(load_file(PATCH))).split("::")[0]
    tensors = load_file(CHECKPOINT)
    tensors["model." + key] = tensors["model." + key].to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "base.safetensors")
    status, path = merge(tmp_path / "base.safetensors")
    assert status == 1
    assert f"{key}: the weight is F8_E4M3, expected one of" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"weight": 0}, "weight must be a finite number other than 0"),
        ({"weight": "nan"}, "weight must be a finite number other than 0"),
        ({"output": "merged.ckpt"}, "output must end in .safetensors"),
        ({"output": "absent/merged.safetensors"}, "is not a folder"),
        ({"checkpoint": "absent.safetensors"}, "absent.safetensors is neither a file nor in"),
        ({"patch": "absent.safetensors"}, "absent.safetensors is neither a file nor in"),
        ({"checkpoint": Path(__file__)}, "eader"),
        ({"patch": Path(__file__)}, "eader"),
    ],
)
def test_an_invalid_request_is_a_short_error(merge, tmp_path, capsys, arguments, reason):
    """Wrong arguments, or files that are not weights, exit with 1 and one line, and nothing is written."""
    status, _ = merge(**arguments)
    assert status == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.startswith("merge-patch: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_order_of_the_headers_entries_does_not_matter(merge, tmp_path):
    """The order of tensors in a checkpoint's header may differ from that of their bytes."""
    contents = CHECKPOINT.read_bytes()
    (size,) = struct.unpack_from("<Q", contents)
    fields = json.loads(contents[8 : 8 + size])
    header = json.dumps(dict(reversed(fields.items()))).encode()
    header += b" " * (-len(header) % 8)
    (tmp_path / "base.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + contents[8 + size :])
    assert raw_tensors(merge(tmp_path / "base.safetensors")[1]) == raw_tensors(merge(output="usual.safetensors")[1])


def test_names_are_looked_up_in_the_models_folder(merge):
    """Plain file names are found in models/checkpoints and models/layer_model."""
    status, by_name = merge(CHECKPOINT.name, PATCH.name)
    assert status == 0
    assert raw_tensors(by_name) == raw_tensors(merge(output="by_path.safetensors")[1])


def test_an_existing_file_is_not_overwritten(merge, tmp_path):
    """An existing file with the output's name, even the checkpoint itself, is not changed."""
    (tmp_path / "merged.safetensors").write_bytes(b"mine")
    status, path = merge()
    assert status == 1
    assert path.read_bytes() == b"mine"


def test_too_little_space_is_found_before_writing(merge, script, monkeypatch, tmp_path, capsys):
    """If the disk has less free space than the output needs, the program fails immediately."""
    monkeypatch.setattr(script.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    status, _ = merge()
    assert status == 1
    assert "0.00 GB free, the output needs 0.02 GB" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing(merge, script, monkeypatch, tmp_path, fault):
    """An error or Ctrl-C in the middle removes what was written."""
    written = []

    def fail_late(*arguments):
        written.append((tmp_path / "merged.safetensors.part").exists())
        if len(written) == 40:
            raise fault
        return original(*arguments)

    original = script.patched
    monkeypatch.setattr(script, "patched", fail_late)
    try:
        status, _ = merge()
    except KeyboardInterrupt:
        status = 1
    assert status == 1
    assert written == [True] * 40
    assert list(tmp_path.iterdir()) == []


def test_a_killed_write_leaves_no_output_file(merge, tmp_path):
    """SIGKILL with every byte written but not yet on disk leaves only the .part file; the next run replaces it."""
    pid = os.fork()
    if not pid:
        torch.set_num_threads(1)  # a forked process has no threads to share work with
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        try:
            merge()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["merged.safetensors.part"]
    assert merge()[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["merged.safetensors"]
