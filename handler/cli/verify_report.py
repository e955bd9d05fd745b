"""The report of `verify`: one JSON file and one HTML file, without paths, host names or keys."""

import base64
import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from handler.cli.checks import Finding, Severity
from handler.cli.verify_machine import Memory, Proof
from handler.cli.verify_pictures import Drawn
from handler.cli.verify_weights import Weight
from handler.comfyui.launch import SECRET
from handler.errors import presentable
from handler.job.png import recompress

FORMAT = 1
HERE = Path(__file__).parent
HIDDEN = "(hidden)"


@dataclass
class Report:
    """What `verify` found.

    Attributes:
        versions: of this project, ComfyUI and PyTorch.
        machine: the machine's facts.
        options: how ComfyUI was started, and why.
        comfyui: ComfyUI's own lines about devices and number formats.
        verdicts: one for each check.
        cold_start: seconds from nothing to the first picture, by stage.
        stages: median seconds of a picture of the default size, by stage.
        cost: dollars for a picture and a cold start on this GPU, with the price and its source.
        comfyui_tail: ComfyUI's last lines, if something failed.
    """

    date: str
    profile: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    comfyui: Sequence[str] = ()
    verdicts: list[Finding] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    pictures: list[Drawn] = field(default_factory=list)
    cold_start: dict[str, float] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    patch: Proof | None = None
    gpu_memory: Memory | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)
    comfyui_tail: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(finding.severity is not Severity.WRONG for finding in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values, without the pictures' pixels."""
        facts = {"format": FORMAT, "passed": self.passed, **asdict(self)}
        for picture in facts["pictures"]:
            del picture["png"]
        cleaned: dict[str, Any] = _cleaned(facts, _private_words())
        return cleaned


def write(report: Report, folder: Path) -> list[Path]:
    """Writes verify.json and verify.html into the folder, and returns their paths.

    Raises:
        OSError: the folder cannot be written.
    """
    facts = report.to_json()
    pngs = [_data_url(picture.png) for picture in report.pictures]
    loader = jinja2.FileSystemLoader(HERE)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = page.get_template("verify.html").render(report=facts, pngs=pngs)
    contents = {"verify.json": json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "verify.html": html}
    for name, text in contents.items():
        part = folder / f"{name}.part"
        part.write_text(text, "utf-8")
        part.replace(folder / name)
    return [folder / name for name in contents]


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(recompress(png)).decode('ascii')}" if png else ""


def _private_words() -> re.Pattern[str]:
    """Returns what must not be in a report: this machine's name, and the values of secret variables."""
    secrets = [value for name, value in os.environ.items() if SECRET.search(name) and len(value) > 3]
    words = [re.escape(secret) for secret in secrets]
    host = socket.gethostname()
    if host and host != "localhost":
        words.append(rf"\b{re.escape(host)}\b")
    return re.compile("|".join(words) or r"(?!)")


def _cleaned(value: Any, private: re.Pattern[str]) -> Any:
    match value:
        case str():
            return presentable(private.sub(HIDDEN, value))
        case Mapping():
            return {name: _cleaned(entry, private) for name, entry in value.items()}
        case list() | tuple():
            return [_cleaned(entry, private) for entry in value]
    return value
