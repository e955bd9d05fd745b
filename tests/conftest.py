"""Each suite runs in the environment of what it tests: nodes and training beside torch, everything else without it."""

from importlib.util import find_spec
from pathlib import Path

from hypothesis import settings

HERE = Path(__file__).parent
WITH_TORCH = {"custom_nodes", "training"}

everything = {path.name for path in HERE.iterdir() if path.is_dir() or path.name.startswith("test_")}
collect_ignore = sorted(everything - WITH_TORCH if find_spec("torch") else WITH_TORCH)

settings.register_profile("unhurried", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("unhurried")
