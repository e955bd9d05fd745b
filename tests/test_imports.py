"""DESIGN's arrows: who may import whom inside handler/."""

import ast
from pathlib import Path

import pytest

HANDLER = Path(__file__).parents[1] / "handler"

# Each layer may import from those above it; within a layer, from what stands before.
LAYERS = (
    ("errors", "settings"),
    ("parameters", "workflow", "events", "image", "reply"),
    ("deadline", "models", "weights", "comfy", "process", "stored", "storage", "logs", "jobs", "pictures", "metrics"),
    ("download",),
    ("generate", "worker"),
    ("dispatcher",),
    (
        "queue",
        "refusals",
        "access",
        "body",
        "openapi",
        "api",
        "serve",
        "drawing",
        "doctor",
        "terminal",
        "models_command",
    ),
    ("__main__",),
)
ORDER = [module for layer in LAYERS for module in layer]
PURE = LAYERS[1]
IMPURE = {
    "os",
    "io",
    "time",
    "datetime",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "threading",
    "asyncio",
    "pathlib",
}
IMPURE |= {"requests", "websocket", "tempfile", "logging", "runpod", "uuid"}


def imports(module):
    """Yields the full names of what `handler/<module>.py` imports."""
    for node in ast.walk(ast.parse((HANDLER / f"{module}.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(module):
    names = [name.split(".") for name in imports(module) if name.startswith("handler.")]
    return {name[1] for name in names}


def test_every_module_has_its_place():
    """No module stands outside the layers, but the file that ComfyUI's own Python runs."""
    assert {path.stem for path in HANDLER.glob("*.py")} == {*ORDER, "__init__", "comfyui_main"}


@pytest.mark.parametrize("module", ORDER)
def test_imports_go_one_way(module):
    """A module imports only what stands before it."""
    assert own(module) <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_do_no_io(module):
    """Pure modules import neither I/O nor a clock, environment or randomness."""
    assert {name.split(".")[0] for name in imports(module)}.isdisjoint(IMPURE)


def test_no_module_imports_torch():
    """The handler's environment has no torch, and nothing asks for it."""
    assert all(not name.startswith(("torch", "comfy.")) for module in ORDER for name in imports(module))


def test_no_parameter_or_node_is_named_in_python():
    """Names, ids and defaults of the workflow are data: none of its words is a literal in handler/."""
    words = {
        "negative_prompt",
        "num_inference_steps",
        "guidance_scale",
        "ckpt_name",
        "sampler_name",
        "KSampler",
        "bad, ugly",
    }
    for module in ORDER:
        literals = {
            node.value
            for node in ast.walk(ast.parse((HANDLER / f"{module}.py").read_text("utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert literals.isdisjoint(words), module
