import importlib.util
import os
from pathlib import Path

import comfy.ldm.modules.attention
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import nodes
import pytest
import tiny_sd15
import torch
from comfy.weight_adapter.lora import LoRAAdapter
from layerdiffuse_alpha import attention_sharing, sd15
from layerdiffuse_alpha.attention_sharing import ATTENTIONS, SharedAttention, overwrite
from layerdiffuse_alpha.patch import PatchError
from safetensors.torch import load_file, save_file

# Outputs recorded from huchenlei/ComfyUI-layerdiffuse 1.0.4 (AttentionSharingPatcher with rank 4 on
# the tiny model, on ComfyUI 0.30's modules), CPU; inputs and weights come from tiny_sd15.numbers. Units
# were computed in fp32, the U-Net in fp64, where rounding does not hide a difference of the maths.
REFERENCE = Path(__file__).with_name("attention_sharing_reference.safetensors")
UPSTREAM = os.environ.get("LAYERDIFFUSE_UPSTREAM")

RANK = 4
JOINT = "SD15, attn_sharing, Batch size (3N)"
FOREGROUND = "SD15, Foreground, attn_sharing, Batch size (2N)"
HEIGHT, WIDTH = 8, 16  # of the latents

# name: (frames, control, scenes, kinds of the chunks, which frames have an own prompt)
UNET_CASES = {
    "one frame": (1, False, 2, [1, 0], ()),
    "two frames": (2, False, 2, [0, 1], (0, 1)),
    "three frames": (3, False, 1, [1, 0], (0, 2)),
    "three frames, no prompts": (3, False, 2, [1, 0], ()),
    "three frames, positive alone": (3, False, 1, [0], (0, 1, 2)),
    "three frames, negative alone": (3, False, 1, [1], (0, 1, 2)),
    "control": (2, True, 1, [1, 0], (1,)),
}
# name: (index of the attention, frames, positions)
UNIT_CASES = {
    f"{kind}, {frames} frames, {positions} positions": (index, frames, positions)
    for kind, index in (("self", 0), ("cross", 1))
    for frames in (1, 2, 3)
    for positions in (3, 32)
}


@pytest.fixture(scope="module")
def base():
    return tiny_sd15.make_model()


@pytest.fixture
def model(base):
    return base.clone()


@pytest.fixture(scope="module")
def base_fp64():
    return tiny_sd15.make_model(torch.float64)


@pytest.fixture
def model_fp64(base_fp64):
    return base_fp64.clone()


@pytest.fixture
def write(layer_model):
    """Writes tensors as a weight file and returns its name."""

    def write_file(tensors, name="patch.safetensors") -> str:
        save_file({key: value.contiguous() for key, value in tensors.items()}, layer_model / name)
        return name

    return write_file


def conditioning(name, tokens=7, width=tiny_sd15.CONTEXT_WIDTH):
    return [[tiny_sd15.numbers(name, 1, tokens, width), {}]]


def unet_inputs(case):
    frames, control, scenes, kinds, prompts = UNET_CASES[case]
    batch = len(kinds) * scenes * frames
    overwrites = [tiny_sd15.numbers(f"prompt {i}", 1, 7, 16) if i in prompts else None for i in range(frames)]
    image = tiny_sd15.numbers("image", 1, 8 * HEIGHT, 8 * WIDTH, 3).sigmoid() if control else None
    inputs = {
        "x": tiny_sd15.numbers(f"x of {case}", batch, 4, HEIGHT, WIDTH),
        "timesteps": torch.full((batch,), 500.0),
        "context": tiny_sd15.numbers(f"context of {case}", batch, 7, 16),
    }
    options = {"cond_or_uncond": kinds, "sigmas": torch.ones(scenes * frames), "cond_overwrite": overwrites}
    return inputs, options, image


def unit_inputs(case):
    index, frames, positions = UNIT_CASES[case]
    batch = 2 * frames
    x = tiny_sd15.numbers(f"x of {case}", batch, positions, 32)
    context = tiny_sd15.numbers(f"context of {case}", batch, 7, 16) if index % 2 else None
    overwrites = [tiny_sd15.numbers("prompt", 1, 7, 16)]
    options = {"cond_or_uncond": [1, 0], "sigmas": torch.ones(frames), "cond_overwrite": overwrites}
    return x, context, options


def unet(patched, inputs, options) -> torch.Tensor:
    """Returns the U-Net's output after ComfyUI has loaded the patched model."""
    comfy.model_management.load_models_gpu([patched])
    inputs = {key: value.to(patched.model.get_dtype_inference()) for key, value in inputs.items()}
    with torch.no_grad():
        return patched.model.diffusion_model(
            **inputs, transformer_options={**patched.model_options["transformer_options"], **options}
        )


def apply(model, write, case):
    frames, control = UNET_CASES[case][:2]
    inputs, options, image = unet_inputs(case)
    name = write(tiny_sd15.patch_tensors(model, frames, control, RANK))
    return sd15.apply_attention_sharing(model, name, frames, image), inputs, options


class Upstream:
    """The old pack's own code, at a checkout, on ComfyUI 0.30's modules."""

    def __init__(self, checkout: str) -> None:
        block = comfy.ldm.modules.attention.BasicTransformerBlock
        forward = block.forward
        path = Path(checkout, "lib_layerdiffusion", "attention_sharing.py")
        spec = importlib.util.spec_from_file_location("upstream_attention_sharing", path)
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        block.forward = forward  # it replaces it, to see transformer_options, which 0.30 hands over
        self.unit = self.module.AttentionSharingUnit
        call = self.unit.forward

        def with_options(unit, h, context=None, value=None, transformer_options=None):
            type(unit).transformer_options = transformer_options
            return call(unit, h, context, value)

        self.unit.forward = with_options

    def patcher(self, model, frames, control):
        tensors = tiny_sd15.patch_tensors(model, frames, control, RANK)
        patcher = self.module.AttentionSharingPatcher(model, frames, use_control=control, rank=RANK)
        patcher.load_state_dict(tensors, strict=True)
        patcher.hookers.to(model.model.get_dtype())
        return patcher

    @torch.no_grad()
    def unet(self, base, case) -> torch.Tensor:
        patched = base.clone()
        inputs, options, image = unet_inputs(case)
        patcher = self.patcher(patched, UNET_CASES[case][0], image is not None)
        if image is not None:
            patcher.set_control(image.movedim(-1, 1))
        return unet(patched, inputs, options)

    @torch.no_grad()
    def attend(self, base, case) -> torch.Tensor:
        index, frames, _ = UNIT_CASES[case]
        x, context, options = unit_inputs(case)
        unit = self.patcher(base.clone(), frames, control=False).hookers.layers[index]
        return unit(x, context, transformer_options=options)


def record(checkout: str) -> None:
    """Writes the reference from the old pack's checkout."""
    upstream, fp32, fp64 = Upstream(checkout), tiny_sd15.make_model(), tiny_sd15.make_model(torch.float64)
    outputs = {f"unet: {case}": upstream.unet(fp64, case) for case in UNET_CASES}
    outputs |= {f"unit: {case}": upstream.attend(fp32, case) for case in UNIT_CASES}
    save_file({name: value.float().contiguous() for name, value in outputs.items()}, REFERENCE)


@pytest.fixture(scope="module")
def recorded():
    return load_file(REFERENCE)


@pytest.fixture(scope="module")
def upstream():
    if UPSTREAM is None:
        pytest.skip("the old pack is missing: run scripts/setup --with-upstream and set LAYERDIFFUSE_UPSTREAM")
    return Upstream(UPSTREAM)


def assert_close(found, expected, tolerance=1e-5) -> None:
    """Asserts that no value differs by more than `tolerance` times the largest value, which is one to ten here."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def attend(base, case) -> torch.Tensor:
    index, frames, _ = UNIT_CASES[case]
    x, context, options = unit_inputs(case)
    layer = attention_sharing.SharingLayer(tiny_sd15.patch_tensors(base, frames, rank=RANK), index, frames)
    return SharedAttention(base.get_model_object(ATTENTIONS[index]), layer)(x, context, transformer_options=options)


@pytest.mark.parametrize("case", UNIT_CASES)
def test_a_unit_equals_the_recorded_one(base, recorded, case):
    """One attention's output equals the old pack's, for both ways of adding the differences."""
    assert_close(attend(base, case), recorded[f"unit: {case}"])


@pytest.mark.parametrize("case", UNIT_CASES)
def test_a_unit_equals_the_old_packs(base, upstream, case):
    """One attention's output equals that of the old pack's code."""
    assert_close(attend(base, case), upstream.attend(base, case))


@pytest.mark.parametrize("case", UNET_CASES)
def test_the_unet_equals_the_recorded_one(model_fp64, write, recorded, case):
    """The U-Net's output equals that with the old pack's patch, and differs from the unpatched one."""
    patched, inputs, options = apply(model_fp64, write, case)
    found = unet(patched, inputs, options)
    assert_close(found, recorded[f"unet: {case}"], 1e-6)
    assert (found - unet(model_fp64, inputs, options)).abs().max() > 0.1


@pytest.mark.parametrize("case", UNET_CASES)
def test_the_unet_equals_the_old_packs(model_fp64, write, upstream, case):
    """The U-Net's output equals that with the old pack's code."""
    expected = upstream.unet(model_fp64, case)
    assert_close(unet(*apply(model_fp64, write, case)), expected, 1e-6)


@pytest.mark.parametrize("case", ["one frame", "two frames", "three frames"])
def test_single_precision_is_near(model, write, recorded, case):
    """In fp32 the U-Net's output equals the recorded one except for rounding."""
    assert_close(unet(*apply(model, write, case)), recorded[f"unet: {case}"], 1e-4)


def test_inputs_and_outputs_are_those_of_the_old_pack():
    """Names, order and options are those that existing workflows rely on; ours are optional and come last."""
    joint, cond_joint = sd15.LayeredDiffusionJointApply, sd15.LayeredDiffusionCondJointApply
    inputs = joint.INPUT_TYPES()
    assert inputs["required"] == {"model": ("MODEL",), "config": ([JOINT],)}
    assert list(inputs["optional"]) == ["fg_cond", "bg_cond", "blended_cond", "patch_name"]
    inputs = cond_joint.INPUT_TYPES()
    background = "SD15, Background, attn_sharing, Batch size (2N)"
    assert list(inputs["required"]) == ["model", "image", "config"]
    assert inputs["required"]["config"] == ([FOREGROUND, background],)
    assert list(inputs["optional"]) == ["cond", "blended_cond", "patch_name"]
    for node in (joint, cond_joint):
        conds = list(node.INPUT_TYPES()["optional"].values())[:-1]
        assert all(cond == ("CONDITIONING",) for cond in conds)
        assert (node.RETURN_TYPES, node.CATEGORY) == (("MODEL",), "layer_diffuse")


def test_each_config_has_its_file(model, write):
    """The configs read the published files of their names."""
    write(tiny_sd15.patch_tensors(model, 3), "layer_sd15_joint.safetensors")
    write(tiny_sd15.patch_tensors(model, 2, True, encoder=tiny_sd15.NARROW_ENCODER), "layer_sd15_bg2fg.safetensors")
    sd15.LayeredDiffusionJointApply().apply(model, JOINT)
    image = torch.zeros(1, 64, 128, 3)
    node = sd15.LayeredDiffusionCondJointApply()
    node.apply(model, image, "SD15, Background, attn_sharing, Batch size (2N)")
    with pytest.raises(FileNotFoundError, match=r"layer_sd15_fg2bg\.safetensors does not exist"):
        node.apply(model, image, FOREGROUND)
    with pytest.raises(ValueError, match="config 'SDXL' is not supported"):
        node.apply(model, image, "SDXL")


def test_the_original_model_is_not_changed(model, write):
    """Before, while and after the patched clone is loaded, the original has the same output and options."""
    inputs, options, _ = unet_inputs("three frames")
    before, size, version = unet(model, inputs, options), model.model_size(), model.patches_uuid
    keys = set(model.model.state_dict())
    (patched,) = sd15.LayeredDiffusionJointApply().apply(
        model, JOINT, fg_cond=conditioning("fg"), patch_name=write(tiny_sd15.patch_tensors(model, 3))
    )
    assert not torch.equal(unet(patched, inputs, options), before)
    assert torch.equal(unet(model, inputs, options), before)
    assert set(model.model.state_dict()) == keys
    assert model.object_patches == {}
    assert "cond_overwrite" not in model.model_options["transformer_options"]
    assert (model.model_size(), model.patches_uuid) == (size, version)


@pytest.mark.parametrize("loaded_before", [False, True])
def test_comfyui_counts_and_loads_the_layers(model, write, loaded_before):
    """ComfyUI loads every layer of the patch, whether or not the original is already loaded."""
    comfy.model_management.unload_all_models()
    if loaded_before:
        comfy.model_management.load_models_gpu([model])
    tensors = tiny_sd15.patch_tensors(model, 2)
    patched = sd15.apply_attention_sharing(model, write(tensors), 2)
    own_bytes = sum(tensor.nbytes for tensor in tensors.values())
    assert patched.model_size() == patched.clone().model_size() == model.model_size() + own_bytes
    comfy.model_management.load_models_gpu([patched])
    layers = [patched.model.get_submodule(key).sharing for key in ATTENTIONS]
    leaves = [module for layer in layers for module in layer.modules() if list(module.parameters(recurse=False))]
    assert sum(parameter.nbytes for layer in layers for parameter in layer.parameters()) == own_bytes
    assert leaves
    assert all(getattr(leaf, "comfy_patched_weights", False) for leaf in leaves)
    assert patched.loaded_size() == patched.model_size()
    comfy.model_management.unload_all_models()
    assert not any(isinstance(model.model.get_submodule(key), SharedAttention) for key in ATTENTIONS)


def test_a_new_prompt_reloads_nothing(model, write, monkeypatch):
    """A node that runs again with other conditionings reuses layers and version; another model makes new ones."""
    name = write(tiny_sd15.patch_tensors(model, 3))
    node = sd15.LayeredDiffusionJointApply()
    (first,) = node.apply(model, JOINT, conditioning("one"), patch_name=name)
    with monkeypatch.context() as patch:
        patch.setattr(sd15.weights, "load", lambda name: pytest.fail("read again"))
        (second,) = node.apply(model, JOINT, conditioning("two"), patch_name=name)
    layers = [[patched.object_patches[key].sharing for key in ATTENTIONS] for patched in (first, second)]
    assert all(one is two for one, two in zip(*layers, strict=True))
    assert first.patches_uuid == second.patches_uuid != model.patches_uuid
    prompts = [patched.model_options["transformer_options"]["cond_overwrite"][0] for patched in (first, second)]
    assert not torch.equal(*prompts)
    changed = model.clone()
    changed.add_patches({})  # gives it a new version, as a LoRA would
    (third,) = node.apply(changed, JOINT, patch_name=name)
    assert third.object_patches[ATTENTIONS[0]].sharing is layers[0][0]
    assert third.patches_uuid != first.patches_uuid
    (other,) = node.apply(tiny_sd15.make_model(), JOINT, patch_name=name)
    assert other.object_patches[ATTENTIONS[0]].sharing is not layers[0][0]


def test_other_patches_of_the_attentions_still_apply(model, write):
    """A low-rank patch of an attention's weight has the same effect under sharing as a changed weight."""
    inputs, options, _ = unet_inputs("two frames")
    name = write(tiny_sd15.patch_tensors(model, 2))
    key = f"{ATTENTIONS[3]}.to_v.weight"
    shape = model.model.state_dict()[key].shape
    up, down = tiny_sd15.numbers("up", shape[0], 2), tiny_sd15.numbers("down", 2, shape[1])
    model.add_patches({key: LoRAAdapter({key}, (up, down, None, None, None, None))})
    found = unet(sd15.apply_attention_sharing(model, name, 2), inputs, options)
    changed = tiny_sd15.make_model()
    comfy.utils.get_attr(changed.model, key).data += up @ down
    assert_close(found, unet(sd15.apply_attention_sharing(changed, name, 2), inputs, options), 1e-4)
    plain = unet(sd15.apply_attention_sharing(tiny_sd15.make_model(), name, 2), inputs, options)
    assert (found - plain).abs().max() > 0.01


def test_comfyuis_attention_patches_work_with_it(model, write):
    """Patches that pass on their context and value change nothing; a value of zeros does."""
    inputs, options, _ = unet_inputs("two frames")
    patched = sd15.apply_attention_sharing(model, write(tiny_sd15.patch_tensors(model, 2)), 2)
    expected = unet(patched, inputs, options)
    same, zeros = patched.clone(), patched.clone()
    same.set_model_attn1_patch(lambda n, context, value, extra: (n, context, value))
    same.set_model_attn2_patch(lambda n, context, value, extra: (n, context, value.clone()))
    assert_close(unet(same, inputs, options), expected, 1e-4)
    zeros.set_model_attn1_patch(lambda n, context, value, extra: (n, context, torch.zeros_like(value)))
    assert (unet(zeros, inputs, options) - expected).abs().max() > 0.01


def test_sd2_counts_as_compatible(write):
    """As in the old pack, an SD 2 model can be patched if its widths fit."""
    model = tiny_sd15.make_model()
    model.model.model_config = comfy.supported_models.SD20(dict(tiny_sd15.UNET))
    patched = sd15.apply_attention_sharing(model, write(tiny_sd15.patch_tensors(model, 1)))
    assert set(patched.object_patches) == set(ATTENTIONS)


def test_prompts_in_one_batch_and_in_separate_calls_agree(model_fp64, write):
    """Positive and negative prompt have the same output in one call of the U-Net, in either order, or in two."""
    case = "three frames"
    patched, inputs, options = apply(model_fp64, write, case)
    together = unet(patched, inputs, options)
    negative, positive = together.chunk(2)
    for kinds, expected in (([1], negative), ([0], positive), ([0, 1], torch.cat((positive, negative)))):
        parts = {name: value.chunk(2) for name, value in inputs.items()}
        chosen = {name: torch.cat([value[1 - kind] for kind in kinds]) for name, value in parts.items()}
        assert_close(unet(patched, chosen, {**options, "cond_or_uncond": kinds}), expected)


def test_units_of_one_call_share_a_context_and_no_other(base):
    """A unit reuses the prepared context of an earlier unit only for the same context."""
    x, context, options = unit_inputs("cross, 2 frames, 3 positions")
    layer = attention_sharing.SharingLayer(tiny_sd15.patch_tensors(base, 2), 1, 2)
    unit = SharedAttention(base.get_model_object(ATTENTIONS[1]), layer)
    fresh = [unit(x, one, transformer_options=dict(options)) for one in (context, context * 2)]
    found = [unit(x, one, transformer_options=options) for one in (context, context, context * 2)]
    assert torch.equal(found[0], fresh[0])
    assert torch.equal(found[1], fresh[0])
    assert torch.equal(found[2], fresh[1])
    assert not torch.equal(*fresh)


def test_prompts_of_other_lengths_are_repeated():
    """A frame's prompt with another number of tokens replaces only the positive one; lengths are made equal."""
    framed = tiny_sd15.numbers("framed", 2, 2, 4, 16)
    new = tiny_sd15.numbers("new", 1, 6, 16)
    found = overwrite(framed, [None, new], [1, 0])
    assert found.shape == (2, 2, 12, 16)
    assert torch.equal(found[0], framed[0].repeat(1, 3, 1))
    assert torch.equal(found[1, 0], framed[1, 0].repeat(3, 1))
    assert torch.equal(found[1, 1], new[0].repeat(2, 1))
    assert overwrite(framed, [None, None], [1, 0]) is framed
    assert overwrite(framed, [new], [1]) is framed


def test_one_control_image_per_scene_or_one_for_all(model, write):
    """One image is used for all scenes, one per scene is used for each; any other number is an error."""
    name = write(tiny_sd15.patch_tensors(model, 2, True, encoder=tiny_sd15.NARROW_ENCODER))
    inputs, options, _ = unet_inputs("two frames")
    image = tiny_sd15.numbers("image", 1, 64, 128, 3).sigmoid()

    def run(images):
        return unet(sd15.apply_attention_sharing(model, name, 2, images), inputs, options)

    one = run(image)
    assert_close(run(image.repeat(2, 1, 1, 1)), one, 1e-4)
    assert_close(run(torch.cat((image, torch.ones_like(image[..., :1])), dim=-1)), one, 1e-4)
    other = run(1 - image)
    each = run(torch.cat((image, 1 - image)))
    for scene, alone in enumerate((one, other)):
        chosen = [result.unflatten(0, (2, 2, 2))[:, scene] for result in (each, alone)]
        assert_close(*chosen, 1e-4)
    assert (one - other).abs().max() > 0.01
    with pytest.raises(ValueError, match=r"control has 3 images, expected 1 or 2"):
        run(image.repeat(3, 1, 1, 1))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 64), (128, 256)])
def test_a_control_image_of_another_size_is_rejected(model, write, height, width):
    """A control image that does not fit the latent, even by a quarter turn, is an error that names both sizes."""
    name = write(tiny_sd15.patch_tensors(model, 2, True, encoder=tiny_sd15.NARROW_ENCODER))
    inputs, options, _ = unet_inputs("two frames")
    patched = sd15.apply_attention_sharing(model, name, 2, torch.zeros(1, height, width, 3))
    with pytest.raises(ValueError, match=f"control image is {width} x {height}, expected 128 x 64 for this latent"):
        unet(patched, inputs, options)


def test_a_batch_that_is_not_a_multiple_is_rejected(model, write):
    """A batch that is not a multiple of the frames is an error, also counted per prompt."""
    for frames, pictures, kinds in ((3, 4, [0]), (2, 3, [0, 1])):
        patched = sd15.apply_attention_sharing(model, write(tiny_sd15.patch_tensors(model, frames)), frames)
        batch = pictures * len(kinds)
        inputs = {
            "x": torch.zeros(batch, 4, HEIGHT, WIDTH),
            "timesteps": torch.ones(batch),
            "context": torch.zeros(batch, 7, 16),
        }
        with pytest.raises(ValueError, match=rf"batch size is {pictures}, expected a multiple of {frames} \({frames}N"):
            unet(patched, inputs, {"cond_or_uncond": kinds})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("missing", r"hookers\.layers\.7\.temporal_o\.bias is missing"),
        ("missing rank", r"hookers\.layers\.3\.to_k_lora\.0\.down\.weight is missing"),
        ("superfluous", r"hookers\.layers\.32\.to_q_lora\.0\.down\.weight is not expected"),
        ("shape", r"hookers\.layers\.4\.to_q_lora\.1\.up\.weight has shape \(32, 5\), expected \(32, 4\)"),
        ("fewer frames", r"with 2 frames without control: .* is not expected; .*and \d+ more"),
        ("no control", r"without control: hookers\.layers\.0\.control_convs\.0\.0\.bias is not expected; .*more"),
        ("control", r"with 2 frames with control: kwargs_encoder\.blocks_0\.0\.weight is missing"),
    ],
)
def test_a_file_that_does_not_fit_is_rejected(model, write, change, reason):
    """A missing, unexpected or wrongly shaped tensor is an error that names it."""
    narrow = tiny_sd15.NARROW_ENCODER
    frames, has_control = 3 if change == "fewer frames" else 2, change == "no control"
    tensors = tiny_sd15.patch_tensors(model, frames, has_control, RANK, narrow)
    if change == "missing":
        del tensors["hookers.layers.7.temporal_o.bias"]
    if change == "missing rank":
        del tensors["hookers.layers.3.to_k_lora.0.down.weight"]
    if change == "superfluous":
        tensors["hookers.layers.32.to_q_lora.0.down.weight"] = torch.ones(4, 32)
    if change == "shape":
        tensors["hookers.layers.4.to_q_lora.1.up.weight"] = torch.ones(32, 5)
    image = torch.zeros(1, 64, 64, 3) if change == "control" else None
    with pytest.raises(PatchError, match=reason):
        sd15.apply_attention_sharing(model, write(tensors), 2, image)


def test_models_that_cannot_be_patched_are_rejected(model, write, checkpoint):
    """A model of another family, an already patched one, and a prompt of another width are errors."""
    tensors = tiny_sd15.patch_tensors(model, 3)
    name = write(tensors)
    with pytest.raises(ValueError, match="patch.safetensors needs an SD 1.5 model, got TinySDXL"):
        sd15.apply_attention_sharing(checkpoint[0], name)
    patched = sd15.apply_attention_sharing(model, name, 3)
    with pytest.raises(PatchError, match="already has an attention sharing patch"):
        sd15.apply_attention_sharing(patched, name, 3)
    node = sd15.LayeredDiffusionJointApply()
    with pytest.raises(ValueError, match="bg_cond is 2048 wide, expected 16"):
        node.apply(model, JOINT, bg_cond=conditioning("bg", width=2048), patch_name=name)


def sample(patched, batch, **options) -> torch.Tensor:
    """Returns the result of ComfyUI's sampler after two steps, with guidance."""
    latent = {"samples": torch.zeros(batch, 4, HEIGHT, WIDTH)}
    positive, negative = conditioning("positive"), conditioning("negative")
    (out,) = nodes.common_ksampler(patched, 7, 2, 5.0, "euler", "normal", positive, negative, latent, **options)
    return out["samples"]


def test_comfyuis_sampler_runs_it(model, write, monkeypatch):
    """With six pictures (3N), the patch and each frame's prompt change the result, and memory does not."""
    node, name = sd15.LayeredDiffusionJointApply(), write(tiny_sd15.patch_tensors(model, 3))
    plain = sample(model, 6)
    shared = sample(node.apply(model, JOINT, patch_name=name)[0], 6)
    (prompted,) = node.apply(model, JOINT, bg_cond=conditioning("bg", tokens=14), patch_name=name)
    own = sample(prompted, 6)
    assert own.isfinite().all()
    assert (shared - plain).abs().max() > 0.05
    assert (own - shared).abs().max() > 0.01
    with pytest.raises(ValueError, match="batch size is 4, expected a multiple of 3"):
        sample(prompted, 4)
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda self, device: 0)
    assert_close(sample(prompted, 6), own, 1e-4)  # positive and negative in separate calls
    assert torch.equal(sample(model, 6), sample(model, 6))


def test_control_reaches_the_sampler(model, write):
    """With the control node, image and prompts change the sampler's result."""
    name = write(tiny_sd15.patch_tensors(model, 2, True, encoder=tiny_sd15.NARROW_ENCODER))
    node = sd15.LayeredDiffusionCondJointApply()

    def run(image, **conds):
        return sample(node.apply(model, image, FOREGROUND, patch_name=name, **conds)[0], 2)

    dark, light = torch.zeros(1, 64, 128, 3), torch.ones(1, 64, 128, 3)
    first = run(dark)
    assert torch.equal(run(dark), first)
    assert (run(light) - first).abs().max() > 0.01
    assert (run(dark, cond=conditioning("own")) - first).abs().max() > 0.01


def test_weights_of_half_precision_on_the_cpu(write):
    """A model stored in fp16 and computed in fp32 has nearly the output of the fp32 model."""
    inputs, options, _ = unet_inputs("two frames")
    model, half = tiny_sd15.make_model(), tiny_sd15.make_model(dtype=torch.float16, compute_dtype=torch.float32)
    name = write(tiny_sd15.patch_tensors(model, 2))
    assert half.model.get_dtype() == torch.float16
    found = unet(sd15.apply_attention_sharing(half, name, 2), inputs, options)
    expected = unet(sd15.apply_attention_sharing(model, name, 2), inputs, options)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()
