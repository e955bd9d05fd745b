"""What ComfyUI's /object_info says about node classes, and what in a graph does not fit it."""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from handler.workflow.graph import Finding, Graph, Links
from handler.workflow.wording import shown

WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft")
WIDGETS: Mapping[str, tuple[type, ...]] = {
    "INT": (int,),
    "FLOAT": (int, float),
    "STRING": (str,),
    "BOOLEAN": (bool,),
    "COMBO": (str, int, float, bool),
}
NUMBERS = ("INT", "FLOAT")
SEEDS = ("seed", "noise_seed")  # the GUI may change them after each run
AFTER_GENERATE = "control_after_generate"
ANY = "*"
LISTED = 5


@dataclass(frozen=True)
class Input:
    """An input of a class.

    Attributes:
        kind: "INT", "FLOAT", "STRING", "BOOLEAN" or "COMBO" if it has a widget, else a type such as "MODEL".
        required: whether ComfyUI rejects a graph without it.
        choices: the values of a COMBO.
        limits: `default`, `min`, `max`, as far as they are set.
    """

    kind: str
    required: bool
    choices: tuple[Any, ...]
    limits: Mapping[str, Any]

    @property
    def is_widget(self) -> bool:
        """Whether it has a value of its own."""
        return self.kind in WIDGETS and not self.limits.get("forceInput")

    @property
    def default(self) -> Any:
        """The value that the GUI shows in a new node."""
        if "default" in self.limits:
            return self.limits["default"]
        return self.choices[0] if self.choices else {"STRING": "", "BOOLEAN": False}.get(self.kind, 0)


class NodeClasses:
    """The classes of one ComfyUI."""

    def __init__(self, object_info: Mapping[str, Any]) -> None:
        self._classes = object_info

    def __contains__(self, name: str) -> bool:
        return name in self._classes

    def inputs(self, name: str) -> dict[str, Input]:
        """Returns the inputs of a class, in the order of the GUI."""
        groups = self._classes[name]["input"]
        return {
            key: _input(entry, group == "required")
            for group in ("required", "optional")
            for key, entry in groups.get(group, {}).items()
        }

    def widgets(self, name: str) -> list[str]:
        """Returns the widgets of a class as the GUI saves them: inputs, and what happens to seeds after a run."""
        found = []
        for key, widget in self.inputs(name).items():
            if widget.is_widget:
                found.append(key)
                if widget.limits.get(AFTER_GENERATE, key in SEEDS):
                    found.append(AFTER_GENERATE)
        return found

    def required(self, name: str) -> list[str]:
        """Returns the inputs of a class without which ComfyUI rejects a graph."""
        return [key for key, each in self.inputs(name).items() if each.required]

    def title(self, name: str) -> str:
        """Returns the title that the GUI gives to a new node of a class."""
        return str(self._classes[name].get("display_name") or name)

    def outputs(self, name: str) -> list[str]:
        """Returns the types of a class's outputs."""
        return [output if isinstance(output, str) else "COMBO" for output in self._classes[name]["output"]]

    def findings(self, graph: Graph, files: Set[str]) -> list[Finding]:
        """Returns why ComfyUI would reject the graph.

        Args:
            files: names of weight files that are here or can be downloaded.
        """
        return [finding for node in graph for finding in self._of_node(Links(graph), node, files)]

    def left_out(self, graph: Graph) -> list[Finding]:
        """Returns the widgets that the graph does not name: the GUI would show the values of another graph there."""
        links = Links(graph)
        return [
            Finding(links.title(node), f"the file leaves out '{name}'", "run layerdiffuse-alpha workflow format")
            for node in graph
            for name, widget in self._inputs(links.class_of(node)).items()
            if widget.is_widget and name not in graph[node]["inputs"]
        ]

    def completed(self, graph: Graph) -> Graph:
        """Returns the graph with every widget, inputs in the GUI's order, numbers in the type of their input."""
        return {node: {**entry, "inputs": self._complete(entry)} for node, entry in graph.items()}

    def _complete(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        known = self._inputs(entry["class_type"])
        inputs = {name: widget.default for name, widget in known.items() if widget.is_widget} | entry["inputs"]
        ordered = [name for name in known if name in inputs] + [name for name in inputs if name not in known]
        return {name: _typed(inputs[name], known.get(name)) for name in ordered}

    def _inputs(self, name: str) -> dict[str, Input]:
        return self.inputs(name) if name in self else {}

    def _of_node(self, links: Links, node: str, files: Set[str]) -> Iterator[Finding]:
        title, name = links.title(node), links.class_of(node)
        if name not in self:
            yield Finding(title, f"ComfyUI has no class {name}", "install its node pack, or remove the node")
            return
        given = links.nodes[node]["inputs"]
        for key, expected in self.inputs(name).items():
            if key not in given:
                if expected.required and not expected.is_widget:
                    yield Finding(title, f"nothing is connected to its input '{key}'", f"connect a {expected.kind}")
            elif (link := links.link(node, key)) is not None:
                yield from self._of_link(links, title, key, expected, link)
            elif given[key] is not None and (fault := _fault(given[key], expected, files)):  # None: lint.py
                yield Finding(title, f"'{key}' is {shown(given[key])}", fault)

    def _of_link(self, links: Links, title: str, key: str, expected: Input, link: tuple[str, int]) -> Iterator[Finding]:
        source, number = link
        if source not in links.nodes:
            yield Finding(title, f"its input '{key}' is connected to a missing node", f"connect a {expected.kind}")
        elif links.class_of(source) in self:
            outputs = self.outputs(links.class_of(source))
            if number >= len(outputs):
                fact = f"its input '{key}' is connected to output {number} of {links.title(source)}"
                yield Finding(title, fact, f"it has {len(outputs)}")
            elif not _fits(outputs[number], expected.kind):
                fact = f"its input '{key}' takes {expected.kind}, and {links.title(source)} has {outputs[number]} there"
                yield Finding(title, fact, f"connect a {expected.kind}")


def reduced(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is needed of /object_info, without texts and without the weight files of one machine."""
    return {
        name: {
            "input": {
                group: {key: _reduced(entry) for key, entry in inputs.items()}
                for group, inputs in info["input"].items()
                if group in ("required", "optional")
            },
            "output": info["output"],
            "display_name": info["display_name"],
        }
        for name, info in sorted(object_info.items())
    }


def _reduced(entry: list[Any]) -> list[Any]:
    kind, *options = entry
    kept = {
        key: value
        for key, value in (options[0] if options else {}).items()
        if key in ("default", "min", "max", "options", "forceInput", AFTER_GENERATE)
    }
    if isinstance(kept.get("options"), list):
        kept["options"] = [choice for choice in kept["options"] if not _is_weight_file(choice)]
    if isinstance(kind, list):
        kind = [choice for choice in kind if not _is_weight_file(choice)]
    return [kind, kept] if kept else [kind]


def _input(entry: list[Any], required: bool) -> Input:
    kind, *options = entry
    limits = options[0] if options else {}
    if isinstance(kind, list):
        return Input("COMBO", required, tuple(kind), limits)
    return Input(kind, required, tuple(limits.get("options") or ()) if kind == "COMBO" else (), limits)


def _is_weight_file(value: object) -> bool:
    return isinstance(value, str) and value.endswith(WEIGHT_SUFFIXES)


def _typed(value: Any, expected: Input | None) -> Any:
    if expected is not None and expected.kind == "FLOAT" and type(value) is int:
        return float(value)
    return value


def _fits(given: str, expected: str) -> bool:
    kinds = {kind.strip() for kind in given.split(",")}, {kind.strip() for kind in expected.split(",")}
    return ANY in kinds[0] | kinds[1] or not kinds[0].isdisjoint(kinds[1]) or "COMFY_" in given + expected


def _fault(value: Any, expected: Input, files: Set[str]) -> str:
    """Returns what a widget's value must be; empty if it fits."""
    types = WIDGETS.get(expected.kind)
    if types is None:
        return ""
    if _is_weight_file(value) and expected.kind == "COMBO":
        return "" if value in files or value in expected.choices else "put this file into models/, or choose another"
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        return f"it must be {expected.kind}"
    if expected.kind == "COMBO" and expected.choices and value not in expected.choices:
        more = ", …" if len(expected.choices) > LISTED else ""
        return f"it must be one of {', '.join(map(str, expected.choices[:LISTED]))}{more}"
    least, most = expected.limits.get("min"), expected.limits.get("max")
    too_low = least is not None and expected.kind in NUMBERS and value < least
    too_high = most is not None and expected.kind in NUMBERS and value > most
    return f"it must be from {least} to {most}" if too_low or too_high else ""
