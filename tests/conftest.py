"""Each suite runs in the environment of what it tests: the nodes beside torch, everything else without it."""

from importlib.util import find_spec

collect_ignore = ["handler", "installer", "integration"] if find_spec("torch") else ["custom_nodes"]
