"""The arrow between the parts of handler/: a part may import only from parts to its left (docs/architecture.md)."""

import ast
import sys
from pathlib import Path

import pytest

HANDLER = Path(__file__).parents[1] / "handler"

# Parts on one level know nothing of each other. A part is a folder, or modules at the top of the package.
LEVELS = (
    {"errors", "settings", "deadline", "logs", "proxies"},
    {"workflow"},
    {"weights"},
    {"comfyui"},
    {"job"},
    {"server", "serverless", "job_loop"},
    {"cli"},
    {"__main__"},
)
BASE = LEVELS[0]  # its modules may import each other
PURE_PARTS = {"workflow"}
PURE_MODULES = {Path("comfyui/run.py"), Path("job/png.py"), Path("job/formats.py"), Path("job/reply.py")}
IMPURE = {
    *("asyncio", "datetime", "io", "logging", "os", "pathlib", "random", "requests", "runpod", "secrets", "socket"),
    *("subprocess", "tempfile", "threading", "time", "uuid", "websocket"),
}
MODULES = sorted(path.relative_to(HANDLER) for path in HANDLER.rglob("*.py"))


def part_of(module):
    """Returns the part that a module belongs to."""
    return module.parts[0].removesuffix(".py")


def imports(module):
    """Yields the full names of what a module imports."""
    for node in ast.walk(ast.parse((HANDLER / module).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_parts(module):
    names = [name.split(".") for name in imports(module) if name.startswith("handler.")]
    return {name[1] for name in names} - {"__version__"}


def test_every_module_belongs_to_a_part():
    """No module stands outside the parts."""
    assert {part_of(module) for module in MODULES} - {"__init__"} == set.union(*LEVELS)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_parts_import_only_from_their_left(module):
    """A module imports from its own part and from parts to the left of it."""
    part = part_of(module)
    level = next((number for number, parts in enumerate(LEVELS) if part in parts), 0)
    allowed = {part}.union(*LEVELS[:level]) | (BASE if part in BASE else set())
    assert imported_parts(module) <= allowed


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_module_is_named_like_one_of_the_standard_library(module):
    """A `queue.py` breaks `import concurrent.futures.thread` when its folder is first on the path."""
    assert module.stem not in sys.stdlib_module_names - {"__main__"}


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) in PURE_PARTS or m in PURE_MODULES], ids=str)
def test_pure_modules_do_no_io(module):
    """Pure modules import neither I/O nor a clock, environment or randomness."""
    assert {name.split(".")[0] for name in imports(module)}.isdisjoint(IMPURE)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_module_imports_torch(module):
    """The handler's environment has no torch, and no module needs it."""
    assert all(not name.startswith(("torch", "comfy.")) for name in imports(module))


def test_no_parameter_or_node_is_named_in_python():
    """Names, ids and defaults of the workflow are data: none of them is a literal in handler/."""
    words = {
        *("negative_prompt", "num_inference_steps", "guidance_scale", "ckpt_name", "sampler_name", "KSampler"),
        "bad, ugly",
    }
    for module in MODULES:
        literals = {
            node.value
            for node in ast.walk(ast.parse((HANDLER / module).read_text("utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert literals.isdisjoint(words), module
