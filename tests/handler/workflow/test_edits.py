"""Edits as people make them in ComfyUI's GUI, in the form in which it exports them: what `build` makes of each."""

import pytest

from handler.errors import WorkflowInvalid
from handler.workflow.build import build


def node(title, class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}


@pytest.fixture
def edited(files):
    """Builds the stored workflow after an edit: `edited(edit, profile)`."""
    graph, params, tiny = files

    def build_it(edit, profile="sdxl"):
        edit(graph)
        return build("mine", graph, params, profile, tiny if profile == "tiny" else {})

    return build_it


@pytest.fixture
def faults(edited):
    """Returns the lines with which an edit is refused."""

    def refused(edit):
        with pytest.raises(WorkflowInvalid) as caught:
            edited(edit)
        return list(caught.value.details) or [caught.value.message]

    return refused


def retitled(graph):
    graph["3"]["_meta"]["title"] = "My Prompt"


def sampler_added_again(graph):
    graph["6"]["_meta"]["title"] = "KSampler"


def patch_bypassed(graph):
    del graph["2"]
    graph["6"]["inputs"]["model"] = ["1", 0]


def decoder_muted(graph):
    del graph["8"]
    del graph["9"]["inputs"]["images"]


def patch_added_again(graph):
    graph["2"]["_meta"]["title"] = "Layer Diffuse Apply"


def output_deleted(graph):
    del graph["9"]


def width_of_1000(graph):
    graph["5"]["inputs"]["width"] = 1000


def two_prompts(graph):
    graph["4"]["_meta"]["title"] = "Prompt"


def one_side_for_both(graph):
    graph["10"] = node("Side", "PrimitiveInt", value=1024)
    graph["5"]["inputs"] |= {"width": ["10", 0], "height": ["10", 0]}


def computed_steps(graph):
    graph["10"] = node("Half", "SomeMath", a=40, b=2)
    graph["6"]["inputs"]["steps"] = ["10", 0]


def prompt_from_a_file(graph):
    graph["10"] = node("Text File", "LoadText", path="/notes.txt")
    graph["3"]["inputs"]["text"] = ["10", 0]


def link_to_nothing(graph):
    graph["6"]["inputs"]["steps"] = ["99", 0]


def values_in_a_circle(graph):
    graph["10"] = node("A", "PrimitiveInt", value=["11", 0])
    graph["11"] = node("B", "PrimitiveInt", value=["10", 0])
    graph["6"]["inputs"]["steps"] = ["10", 0]


def two_outputs_without_the_title(graph):
    graph["9"]["_meta"]["title"] = "A"
    graph["10"] = node("B", "SaveAlphaImageWebsocket", images=["8", 0])


PARAMS = "or change the params file"
OPAQUE = "bypassed, muted, renamed or deleted: the result would not be transparent"
ADD = f"enable it, add it again under this title, {PARAMS}"


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            retitled,
            (
                "Prompt: prompt needs a node with this title; "
                f'the nearest is "My Prompt" (CLIPTextEncode): rename it, {PARAMS}'
            ),
        ),
        (
            sampler_added_again,
            (
                "Sampler: seed, num_inference_steps, guidance_scale, info.sampler_name and info.scheduler need "
                f'a node with this title; the nearest is "KSampler" (KSampler): rename it, {PARAMS}'
            ),
        ),
        (patch_bypassed, f"Transparency Patch: {OPAQUE}; {ADD}"),
        (decoder_muted, f"Alpha Decode: {OPAQUE}; {ADD}"),
        (
            patch_added_again,
            (
                "Transparency Patch: the params file needs a node with this title; "
                f'the nearest is "Layer Diffuse Apply" (LayeredDiffusionApply): rename it, {PARAMS}'
            ),
        ),
        (
            output_deleted,
            (
                "Alpha PNG: no node sends the picture: it is bypassed, muted or deleted; "
                "add a SaveAlphaImageWebsocket node and connect Alpha Decode"
            ),
        ),
        (
            width_of_1000,
            "Size: 'width' is 1000, the default of width; it must be an integer from 512 to 1536, a multiple of 64",
        ),
        (
            one_side_for_both,
            "Side: width and height would both set its input 'value'; use one node for each",
        ),
        (
            computed_steps,
            (
                "Sampler: its input 'steps', which num_inference_steps sets, comes from \"Half\" (SomeMath), which "
                "computes it; name the node and input to set in the params file"
            ),
        ),
        (
            prompt_from_a_file,
            (
                "Prompt: its input 'text', which prompt sets, comes from \"Text File\" (LoadText), which "
                "computes it; name the node and input to set in the params file"
            ),
        ),
        (
            link_to_nothing,
            (
                "Sampler: its input 'steps', which num_inference_steps sets, comes from node 99, which "
                "computes it; name the node and input to set in the params file"
            ),
        ),
        (
            two_outputs_without_the_title,
            (
                'Alpha PNG: several nodes could send the picture: "A" (SaveAlphaImageWebsocket) and '
                '"B" (SaveAlphaImageWebsocket); name one of them "Alpha PNG"'
            ),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_edit_that_cannot_run_is_one_line(faults, edit, expected):
    """The line names the node and says what to do, once, however many parameters need the node."""
    assert faults(edit) == [expected]


def test_values_in_a_circle_end(faults):
    """A loop of links, which ComfyUI rejects, is reported."""
    assert "computes it" in faults(values_in_a_circle)[0]


def test_a_title_that_params_name_must_be_unique(faults):
    """The message names the title and the classes; other titles may repeat."""
    assert "Prompt: 2 nodes have this title (CLIPTextEncode, CLIPTextEncode), which prompt needs a node by" in str(
        faults(two_prompts)
    )


def test_titles_that_params_do_not_name_may_repeat(edited):
    """Two nodes may have the same title if no parameter names it."""

    def edit(graph):
        graph["10"] = node("VAE Decode", "VAEDecodeTiled", samples=["6", 0], vae=["1", 2])

    assert edited(edit)


def test_the_guis_own_format_is_named(faults):
    """File > Save writes another format than File > Export (API)."""

    def edit(graph):
        graph.clear()
        graph |= {"nodes": [], "links": [], "version": 0.4}

    (fault,) = faults(edit)
    assert fault.startswith("workflow mine is in the GUI's own format; run layerdiffuse-alpha workflow convert, or")


def steps_from_a_number_node(graph):
    graph["10"] = node("Steps", "PrimitiveInt", value=12)
    graph["6"]["inputs"]["steps"] = ["10", 0]


def steps_through_two_nodes(graph):
    graph["10"] = node("Steps", "INTConstant", number=12)
    graph["11"] = node("Passed on", "SomeReroute", value=["10", 0])
    graph["6"]["inputs"]["steps"] = ["11", 0]


@pytest.mark.parametrize("edit", [steps_from_a_number_node, steps_through_two_nodes], ids=lambda edit: edit.__name__)
def test_a_value_behind_a_link_is_the_default_and_is_set(edited, edit):
    """Parameters and the reply follow the link to the node that has the value."""
    workflow = edited(edit)
    assert workflow.input_schema()["properties"]["num_inference_steps"]["default"] == 12
    graph = workflow.render({"num_inference_steps": 7})
    assert 7 in graph["10"]["inputs"].values()
    assert graph["6"]["inputs"]["steps"] in (["10", 0], ["11", 0])
    assert workflow.info(graph)["steps"] == 7


def test_a_profile_changes_values_behind_links(edited):
    """The tiny profile's size applies to the node that the size comes from."""

    def edit(graph):
        graph["10"] = node("Width", "PrimitiveInt", value=1024)
        graph["5"]["inputs"]["width"] = ["10", 0]

    workflow = edited(edit, "tiny")
    assert workflow.size(workflow.render({})) == (128, 128)
    assert workflow.size(workflow.render({"width": 256})) == (256, 128)
    assert workflow.keeps_size


@pytest.mark.parametrize("title", ["Alpha PNG", "Save Image"])
@pytest.mark.parametrize("kind", ["SaveImage", "PreviewImage"])
def test_a_saving_node_is_taken_for_the_output(edited, kind, title):
    """Its picture is sent, nothing is written, and requests can set the inputs of our output node."""

    def edit(graph):
        graph["9"] = node(title, kind, images=["8", 0], filename_prefix="ComfyUI")

    workflow = edited(edit)
    defaults = {
        "format": "png",
        "trim": False,
        "padding": 0,
        "background": "transparent",
        "crop_width": 0,
        "crop_height": 0,
    }
    own = node("Alpha PNG", "SaveAlphaImageWebsocket", images=["8", 0], **defaults)
    assert workflow.render({})["9"] == own
    assert workflow.render({"trim": True})["9"]["inputs"] == own["inputs"] | {"trim": True}
    assert workflow.findings(merged=False) == []


def test_a_saving_node_with_an_opaque_picture_is_refused(edited):
    """SaveImage behind the ordinary decoder: the node and what to connect instead."""

    def edit(graph):
        graph["9"] = node("Alpha PNG", "SaveImage", images=["7", 0], filename_prefix="ComfyUI")

    expected = "Alpha PNG: the picture from VAE Decode has no alpha of a transparent decoder; connect Alpha Decode"
    assert list(map(str, edited(edit).findings(merged=False))) == [expected]


@pytest.mark.parametrize("kind", ["PreviewImage", "SaveImage", "SaveAlphaImageWebsocket"])
def test_another_output_is_not_run(edited, kind):
    """Previews would leave files, and a second picture would be drawn for nothing: a warning names the node."""

    def edit(graph):
        graph["10"] = node("Upscaled", "ImageScaleBy", image=["7", 0], upscale_method="bilinear", scale_by=2.0)
        graph["11"] = node("Second", kind, images=["10", 0])

    workflow = edited(edit)
    assert workflow.render({}).keys() == set("123456789")
    assert list(map(str, workflow.warnings())) == [f"Second: {kind} is not part of the picture; it will not run"]


def test_a_parameter_without_effect_is_refused(edited):
    """A caller's negative prompt must not be ignored silently."""

    def edit(graph):
        graph["10"] = node("Nothing", "ConditioningZeroOut", conditioning=["3", 0])
        graph["6"]["inputs"]["negative"] = ["10", 0]

    expected = (
        "Negative Prompt: not connected to Alpha PNG, so negative_prompt would have no effect; "
        "connect it, or remove negative_prompt from the params file"
    )
    workflow = edited(edit)
    assert list(map(str, workflow.findings(merged=False))) == [expected]
    assert workflow.render({"negative_prompt": "x"})
    assert workflow.info(workflow.render({}))["negative_prompt"] == "bad, ugly"


def scaled(graph):
    graph["10"] = node("Smaller", "ImageScale", image=["8", 0], upscale_method="area", width=64, height=64, crop="x")
    graph["9"]["inputs"]["images"] = ["10", 0]


def second_pass(graph):
    graph["10"] = node("Larger", "LatentUpscaleBy", samples=["6", 0], upscale_method="nearest-exact", scale_by=1.5)
    graph["11"] = {**graph["6"], "_meta": {"title": "Second"}, "inputs": {**graph["6"]["inputs"]}}
    graph["11"]["inputs"] |= {"latent_image": ["10", 0], "denoise": 0.5}
    graph["7"]["inputs"]["samples"] = graph["8"]["inputs"]["samples"] = ["11", 0]


@pytest.mark.parametrize(
    ("edit", "title"),
    [(scaled, "Smaller: ImageScale"), (second_pass, "Larger: LatentUpscaleBy")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_node_that_changes_the_size_is_allowed(edited, edit, title):
    """Jobs then accept the size that the picture has, and report it; a warning names the node."""
    workflow = edited(edit)
    assert not workflow.keeps_size
    expected = f"{title} may change the picture's size; replies report the size that the picture really has"
    assert list(map(str, workflow.warnings())) == [expected]


def batch_of_two(graph):
    graph["5"]["inputs"]["batch_size"] = 2


def repeated_latent(graph):
    graph["10"] = node("Twice", "RepeatLatentBatch", samples=["5", 0], amount=2)
    graph["6"]["inputs"]["latent_image"] = ["10", 0]


def lora_without_a_file(graph):
    graph["10"] = node("Style", "LoraLoaderModelOnly", model=["2", 0], lora_name=None, strength_model=1.0)
    graph["6"]["inputs"]["model"] = ["10", 0]


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (batch_of_two, "Size: it makes 2 pictures, and a job has one; set batch_size to 1"),
        (repeated_latent, "Twice: it makes 2 pictures, and a job has one; set amount to 1"),
        (
            lora_without_a_file,
            "Style: its input 'lora_name' has no value; choose one, or remove this LoraLoaderModelOnly",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_would_fail_in_every_job_is_found_at_the_start(edited, edit, expected):
    """One line with the node and what to set."""
    assert list(map(str, edited(edit).findings(merged=False))) == [expected]


def test_one_of_several_pictures_may_be_chosen(edited):
    """A batch from which one picture is taken is not a fault."""

    def edit(graph):
        batch_of_two(graph)
        graph["10"] = node("First", "ImageFromBatch", image=["8", 0], batch_index=0, length=1)
        graph["9"]["inputs"]["images"] = ["10", 0]

    assert edited(edit).findings(merged=False) == []
