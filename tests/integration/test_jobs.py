"""RunPod-shaped jobs through the handler on the real ComfyUI."""

import asyncio
import base64
import contextlib
import io
import json
import re
import struct
import time

import numpy as np
import pytest
from counted import counters
from PIL import Image

from handler.cli.verify_pictures import Reference, draw
from handler.job.generate import Generator
from handler.job.png import check_png, chunks
from handler.job.profiles import load


def job(handle, request, job_id="job-1"):
    return asyncio.run(handle({"id": job_id, "input": request}))


def picture(reply):
    return base64.b64decode(reply["image_base64"])


def test_a_job_draws_a_transparent_png(handle):
    """The default job of the tiny profile: an RGBA PNG of 128x128 with transparent and opaque pixels."""
    reply = job(handle, {"prompt": "a red apple", "seed": 7})
    assert reply["status"] == "success"
    check_png(picture(reply), 128, 128)
    assert reply["url"] == reply["image_url"] == "data:image/png;base64," + reply["image_base64"]
    assert re.fullmatch(r"alpha_\d{10}_[0-9a-f]{6}\.png", reply["filename"])
    assert reply["seed"] == 7
    info = json.loads(reply["info"])
    assert info["alpha"]["transparent"] > 0.01
    assert info["alpha"]["opaque"] > 0.01
    assert (info["prompt"], info["negative_prompt"], info["seed"]) == ("a red apple", "bad, ugly", 7)
    assert (info["steps"], info["cfg"]) == (20, 5.0)
    assert (info["sampler_name"], info["scheduler"]) == ("dpmpp_2m_sde_gpu", "karras")
    assert (info["width"], info["height"]) == (128, 128)
    assert (info["checkpoint"], info["workflow"]) == ("tiny_sdxl.safetensors", "txt2img_alpha")
    assert info["versions"]["comfyui"] == "0.30.0"
    assert info["seconds"]["total"] >= info["seconds"]["Sampler"] > 0
    assert set(reply) == {"status", "url", "image_url", "image_base64", "filename", "seed", "info"}


def test_a_job_chooses_a_stored_workflow(handle, small):
    """`workflow`: the LoRA of the other one is applied, with that workflow's own defaults."""
    plain = job(handle, small | {"guidance_scale": 1})
    turbo = job(handle, small | {"workflow": "txt2img_alpha_turbo"})
    info = json.loads(turbo["info"])
    assert (info["workflow"], info["steps"], info["cfg"]) == ("txt2img_alpha_turbo", 4, 1.0)
    assert (info["sampler_name"], info["scheduler"]) == ("euler", "sgm_uniform")
    assert info["seconds"].keys() >= {"LoRA", "Sampler"}
    assert picture(turbo) != picture(plain)


def background(colour):
    """Returns a picture of one colour as base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_job_has_an_input_picture(handle, small):
    """`foreground_on_background`: another background gives another picture; both samplings run."""
    request = small | {"workflow": "foreground_on_background"}
    grey, green = (job(handle, request | {"background_image": background(name)}) for name in ("grey", "green"))
    assert picture(grey) != picture(green)
    info = json.loads(green["info"])
    assert (info["workflow"], info["width"], info["height"]) == ("foreground_on_background", 64, 64)
    assert info["seconds"].keys() >= {"Background", "Whole Picture Sampler", "Sampler"}


def test_a_picture_at_a_private_address_is_not_fetched(handle, variant, small):
    """With FETCH_IMAGES, the job fails before anything is drawn; without, its input is refused."""
    name, request = "foreground_on_background", small | {"background_image": "https://localhost/a.png"}
    refused = job(handle, request | {"workflow": name})
    assert refused["error"].endswith("this worker does not fetch pictures (FETCH_IMAGES)")
    reply = job(variant(lambda *_: None, fetch_images=True, workflow=name), request)
    assert reply["error"] == "invalid_input: background_image cannot be fetched: localhost is not a public host"


def texts(png):
    """Returns the tEXt chunks of a PNG: keyword -> JSON value."""
    pairs = [part.split(b"\0", 1) for kind, part in chunks(png) if kind == b"tEXt"]
    return {keyword.decode(): json.loads(text) for keyword, text in pairs}


def test_embedding_the_workflow_changes_no_pixel(handle, variant, small):
    """EMBED_WORKFLOW adds the chunks that the GUI reads, with the job's values; by default there are none."""
    plain = picture(job(handle, small))
    embedded = picture(job(variant(lambda *_: None, embed_workflow=True), small))
    assert [kind for kind, _ in chunks(plain)] == [b"IHDR", b"IDAT", b"IEND"]
    assert texts(embedded).keys() == {"prompt", "workflow"}
    titled = {node.get("title"): node["widgets_values"] for node in texts(embedded)["workflow"]["nodes"]}
    assert (titled["Prompt"], titled["Sampler"][0]) == (["a red apple"], 7)
    assert [chunk for chunk in chunks(embedded) if chunk[0] != b"tEXt"] == list(chunks(plain))


def test_a_webp_has_the_workflow_in_its_exif_tags(handle, variant, small):
    """The same texts as a PNG, in the tags that the GUI reads, and the same pixels."""
    plain = picture(job(handle, small))
    webp = picture(job(variant(lambda *_: None, embed_workflow=True), small | {"output_format": "webp"}))
    with Image.open(io.BytesIO(webp)) as image:
        tags = dict(value.split(":", 1) for value in image.getexif().values())
        assert np.array_equal(np.asarray(image.convert("RGBA")), np.asarray(Image.open(io.BytesIO(plain))))
    assert tags.keys() == {"prompt", "workflow"}
    titles = {node["_meta"]["title"]: node["inputs"] for node in json.loads(tags["prompt"]).values()}
    assert titles["Prompt"]["text"] == "a red apple"


def test_same_seed_same_pixels_other_seed_other_pixels(handle, small):
    """Equal requests draw equal bytes; another seed or prompt draws others."""
    first, again = job(handle, small), job(handle, small)
    other_seed = job(handle, small | {"seed": 8})
    other_prompt = job(handle, small | {"prompt": "a blue fish"})
    other_negative = job(handle, small | {"negative_prompt": "round"})
    assert picture(first) == picture(again)
    assert len({picture(reply) for reply in (first, other_seed, other_prompt, other_negative)}) == 4


def test_an_identical_job_gets_a_full_reply(handle, small):
    """The second time everything is in ComfyUI's cache, and picture and statistics are still sent."""
    first, again = job(handle, small | {"seed": 99}), job(handle, small | {"seed": 99})
    assert picture(first) == picture(again)
    cached = json.loads(again["info"])
    assert cached["alpha"] == json.loads(first["info"])["alpha"]
    assert "Sampler" not in cached["seconds"]


def test_without_a_seed_a_random_one_is_used_and_reported(handle, small):
    """Absent and null seeds draw different pictures; the reported seed draws the same picture again."""
    del small["seed"]
    drawn = [job(handle, small), job(handle, small | {"seed": None})]
    assert drawn[0]["seed"] != drawn[1]["seed"]
    assert 0 <= drawn[0]["seed"] < 2**53
    assert picture(job(handle, small | {"seed": drawn[0]["seed"]})) == picture(drawn[0])


@pytest.mark.parametrize(
    "more",
    [
        {"seed": 2**53 - 1},
        {"seed": 0},
        {"width": 128, "height": 64},
        {"width": 64, "height": 192},
        {"prompt": "ein grüner Apfel, 赤いりんご, 🍎"},
        {"prompt": "a (red:1.3) apple with [a leaf] and (((weights)))"},
        {"prompt": "x" * 4000},
        {"prompt": ":) (((( an (apple:-1.5)", "negative_prompt": "   "},
        {"prompt": "(" * 100 + "a red apple" + ":1)" * 100},
        {"prompt": 'quotes " and \\ and \n lines \0 {"a": 1}', "negative_prompt": ""},
        {"guidance_scale": 1},
        {"guidance_scale": 19.999},
        {"num_inference_steps": 1, "guidance_scale": 2},
    ],
)
def test_bounds_and_odd_texts_work(handle, small, more):
    """The graph runs every request that validation accepts."""
    request = small | more
    reply = job(handle, request)
    assert "error" not in reply, reply
    check_png(picture(reply), request["width"], request["height"])
    assert json.loads(reply["info"])["prompt"] == request["prompt"]


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("(x:nan)", "weight nan"),
        ("(x:inf)", "weight inf"),
        ("(x:1e400)", "weight inf"),
        ("(x:1e30)", "weight 1e+30"),
        ("(" * 1000 + "x" + ")" * 1000, "nested more than 100 deep"),
        ("embedding:", "without a name"),
        ("a red apple embedding:nope, shiny", 'the embedding "nope,", which does not exist'),
    ],
)
def test_a_prompt_that_comfyui_cannot_process_is_invalid_input(handle, small, field, text, fault):
    """ComfyUI would fail in a node, draw NaN, or ignore the embedding; the caller's mistake is named instead."""
    error = job(handle, small | {field: text})["error"]
    assert error.startswith(f"invalid_input: {field} ")
    assert fault in error


@pytest.fixture
def embedding(settings):
    """Writes models/embeddings/<name>.safetensors, two vectors of a width for both text encoders; removes it again."""
    folder = settings.models_dir / "embeddings"
    folder.mkdir(exist_ok=True)
    written = []

    def write(name, width):
        size = 2 * 2 * width
        offsets = {"clip_l": [0, size], "clip_g": [size, 2 * size]}
        head = {key: {"dtype": "F16", "shape": [2, width], "data_offsets": ends} for key, ends in offsets.items()}
        text = json.dumps(head).encode()
        values = struct.pack("<e", 0.5) * (4 * width)
        written.append(folder / f"{name}.safetensors")
        written[-1].write_bytes(struct.pack("<Q", len(text)) + text + values)

    yield write
    for path in written:
        path.unlink()
    with contextlib.suppress(OSError):  # it has other files
        folder.rmdir()


def test_an_embedding_changes_the_picture(handle, small, embedding):
    """One that fits is used; one of another width, which ComfyUI would ignore, is refused by name."""
    embedding("test_jobs_fits", 32)
    embedding("test_jobs_wide", 768)
    prompt = "a red apple embedding:{}"
    used = job(handle, small | {"prompt": prompt.format("test_jobs_fits, shiny")})
    assert picture(used) != picture(job(handle, small | {"prompt": "a red apple , shiny"}))
    assert job(handle, small | {"prompt": prompt.format("test_jobs_wide")})["error"] == (
        'invalid_input: prompt names the embedding "test_jobs_wide", which has shape [2, 768], '
        "expected width 32 (clip_l) and 32 (clip_g)"
    )


@pytest.mark.parametrize("raw", [None, [], "x", {}, {"prompt": 3}, {"prompt": "x", "seed": True, "steps": 3}])
def test_bad_input_is_an_error_and_costs_nothing(handle, raw):
    """An invalid request fails immediately with code and reason."""
    before_s = time.process_time()
    reply = job(handle, raw)
    assert reply.keys() == {"error"}
    assert reply["error"].startswith("invalid_input: ")
    assert time.process_time() - before_s < 0.5


def test_a_job_without_input_is_an_error(handle):
    """A job object that lacks its input does not raise."""
    assert asyncio.run(handle({"id": "x"}))["error"].startswith("invalid_input: input must be an object")


def test_parallel_jobs_each_get_their_own_picture(handle, small):
    """Of six jobs at once, each ends with the picture of its own seed."""

    async def all_at_once():
        requests = [small | {"seed": seed} for seed in range(6)]
        return await asyncio.gather(*(handle({"id": str(n), "input": each}) for n, each in enumerate(requests)))

    together = asyncio.run(all_at_once())
    alone = [job(handle, small | {"seed": seed}) for seed in range(6)]
    assert [picture(reply) for reply in together] == [picture(reply) for reply in alone]
    assert len({picture(reply) for reply in together}) == 6


def test_history_does_not_grow(handle, comfyui, small, monkeypatch):
    """After some jobs, valid and failing, one request removes them from ComfyUI's history."""
    from handler.comfyui import client
    from handler.deadline import Deadline

    monkeypatch.setattr(client, "REMEMBERED_RUNS", 3)
    for seed in range(4):
        job(handle, small | {"seed": seed, "num_inference_steps": 1})
    assert len(comfyui.client(Deadline(10))._api._json("GET", "/history")) < 3


def test_a_warm_job_is_one_request(handle, small):
    """It posts the graph, over connections that are open, and writes no file; every 20th job trims the history, too."""
    job(handle, small)
    counted = []
    for _ in range(2):
        counters().clear()
        job(handle, small)
        counted.append(dict(counters()))
    assert min(counted, key=lambda found: found["requests"]) == {"requests": 1}


def works(handle, small):
    reply = job(handle, small)
    return "error" not in reply and picture(reply).startswith(b"\x89PNG")


def test_an_unknown_checkpoint_is_a_clear_error(variant, handle, small):
    """If ComfyUI rejects the graph, the error names node, input and value; the next job works."""

    def change(graph, params):
        graph["1"]["inputs"]["ckpt_name"] = "absent.safetensors"
        params["models"] = []

    broken = variant(change, profile="sdxl")
    reply = job(broken, {"prompt": "x"})
    assert reply["error"].startswith("workflow_rejected: ")
    assert "Checkpoint: Value not in list (ckpt_name 'absent.safetensors')" in reply["error"]
    assert works(handle, small)


def test_a_missing_weight_file_is_named_before_anything_runs(variant, handle, small):
    """With PROFILE=sdxl and no weights, the error names all three files."""
    reply = job(variant(lambda graph, params: None, profile="sdxl"), {"prompt": "x"})
    assert reply["error"] == (
        "model_missing: models/checkpoints/sd_xl_base_1.0.safetensors and "
        "models/layer_model/layer_xl_transparent_attn.safetensors and "
        "models/layer_model/vae_transparent_decoder.safetensors missing"
    )
    assert works(handle, small)


def tiny(graph, params):
    """Turns the stored workflow into the tiny one, so that it can be changed further."""
    graph["1"]["inputs"]["ckpt_name"] = "tiny_sdxl.safetensors"
    graph["2"]["inputs"]["patch_name"] = "tiny_transparent_attn.safetensors"
    graph["8"]["inputs"]["decoder_name"] = "tiny_transparent_decoder.safetensors"
    graph["5"]["inputs"] |= {"width": 64, "height": 64}
    for name in ("width", "height"):
        params["request"][name]["schema"]["minimum"] = 64
    params["models"] = []


@pytest.fixture
def fails_with(variant, handle, small):
    """Asserts that a job of the changed tiny workflow fails with exactly this error, and that the next job works."""

    def check(change, error):
        def changed(graph, params):
            tiny(graph, params)
            change(graph)

        assert job(variant(changed, profile="sdxl", alpha_check="fail"), small) == {"error": error}
        assert works(handle, small)

    return check


def test_a_missing_patch_file_is_a_clear_error(fails_with):
    """If the node does not find its config's file, the error has the file's name; the next job works."""
    fails_with(
        lambda graph: graph["2"]["inputs"].pop("patch_name"),
        "node_failed: LayeredDiffusionApply failed with FileNotFoundError: "
        "models/layer_model/layer_xl_transparent_attn.safetensors does not exist",
    )


def test_a_patch_that_does_not_fit_is_a_clear_error(variant, handle, small):
    """The node rejects a weight file that is not a patch and names it; there is no picture."""

    def change(graph, params):
        tiny(graph, params)
        graph["2"]["inputs"]["patch_name"] = "tiny_transparent_decoder.safetensors"

    reply = job(variant(change, profile="sdxl"), small)
    assert reply["error"].startswith("node_failed: LayeredDiffusionApply failed with ")
    assert "patch file is malformed" in reply["error"]
    assert works(handle, small)


def test_an_exception_in_a_node_is_a_clear_error(fails_with):
    """If the output node gets an RGB picture, the caller gets the reason without traceback or path."""
    fails_with(
        lambda graph: graph["9"]["inputs"].update(images=["7", 0]),
        "node_failed: SaveAlphaImageWebsocket failed with ValueError: "
        "images have 3 channels, expected 4 (red, green, blue, alpha)",
    )


def node(title, class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}


def test_a_node_that_the_picture_does_not_need_is_not_run(variant, small):
    """ComfyUI would reject or run it; a broken second output does not cost the picture."""

    def change(graph, params):
        tiny(graph, params)
        graph["10"] = node("Second", "SaveAlphaImageWebsocket")

    assert works(variant(change, profile="sdxl"), small)


def test_an_opaque_picture_is_an_error(fails_with):
    """If the workflow joins the plain picture with an opaque mask, the job fails."""

    def change(graph):
        graph["10"] = node("Nothing masked", "SolidMask", value=0.0, width=64, height=64)
        graph["11"] = node("Opaque", "JoinImageWithAlpha", image=["7", 0], alpha=["10", 0])
        graph["9"]["inputs"]["images"] = ["11", 0]

    fails_with(
        change,
        "not_transparent: picture is opaque: alpha is under 0.5 in 0.00% of its pixels, its mean is 1.00",
    )


def test_the_patch_changes_the_picture(variant, handle, small):
    """The same job with the patch at weight 0 draws other pixels, so the patched model is the one that is sampled."""

    def change(graph, params):
        tiny(graph, params)
        graph["2"]["inputs"]["weight"] = 0.0

    unpatched = job(variant(change, profile="sdxl"), small)
    assert picture(unpatched) != picture(job(handle, small))


def test_edits_of_the_graph_draw(variant, small):
    """A value behind a link, a picture that is scaled and saved, and a forgotten preview, which leaves no file."""

    def change(graph, params):
        tiny(graph, params)
        graph["10"] = {"class_type": "PrimitiveInt", "inputs": {"value": 20}, "_meta": {"title": "Steps"}}
        graph["6"]["inputs"]["steps"] = ["10", 0]
        scale = {"image": ["8", 0], "upscale_method": "area", "width": 32, "height": 48, "crop": "disabled"}
        graph["11"] = {"class_type": "ImageScale", "inputs": scale, "_meta": {"title": "Smaller"}}
        save = {"images": ["11", 0], "filename_prefix": "ComfyUI"}
        graph["9"] = {"class_type": "SaveImage", "inputs": save, "_meta": {"title": "Alpha PNG"}}
        graph["12"] = {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}, "_meta": {"title": "Left over"}}

    reply = job(variant(change, profile="sdxl"), small)
    info = json.loads(reply["info"])
    check_png(picture(reply), 32, 48)
    assert (info["width"], info["height"], info["steps"]) == (32, 48, 4)
    assert "Left over" not in info["seconds"]


def test_more_than_one_picture_is_an_error(variant, small):
    """If the graph produces two pictures, the job fails."""

    def change(graph, params):
        tiny(graph, params)
        graph["5"]["inputs"]["batch_size"] = 2

    assert (
        job(variant(change, profile="sdxl"), small)["error"]
        == "bad_picture: the workflow produced 2 pictures, expected 1"
    )


def test_a_reply_over_the_limit_is_an_error(variant, small):
    """If no encoding of the picture fits the limit, the job fails with a clear error."""
    reply = job(variant(tiny, profile="sdxl", reply_limit_bytes=2000), small)
    assert re.fullmatch(r"reply_too_large: reply has \d+ bytes, REPLY_LIMIT_BYTES is 2000", reply["error"])


def test_a_picture_of_verify_that_fails_does_not_stop_the_next(generator, settings, small):
    """The error is the picture's own."""
    requests = [{**small, "width": 65}, small]
    bad, good = (draw(Reference("any", request), generator, settings, lambda *_: None) for request in requests)
    assert bad.error.startswith("invalid_input: width")
    assert good.png  # four steps of 64x64 are opaque, which the suite's ALPHA_CHECK accepts


def test_an_opaque_picture_of_verify_fails_and_is_shown(comfyui, settings, weak_patch, small):
    """The report shows what was drawn."""
    changed = settings.model_copy(update={"workflows_dir": weak_patch, "alpha_check": "accept"})
    opaque = draw(Reference("any", small), Generator(load(changed), comfyui, changed), changed, lambda *_: None)
    assert opaque.error.startswith("not_transparent: ")
    assert opaque.png
    assert opaque.alpha["mean"] > 0.5
