"""Each suite runs in the environment of what it tests: the nodes beside torch, everything else without it."""

from importlib.util import find_spec

collect_ignore = ["handler", "installer", "integration", "test_docs.py"] if find_spec("torch") else ["custom_nodes"]
