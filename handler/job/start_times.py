"""How long the start of a worker took, by stage."""

import time
from pathlib import Path

from handler.comfyui.run import Run
from handler.workflow.transparency import PATCH_CLASS
from handler.workflow.workflow import Workflow

PROCESS = Path("/proc/self/stat")  # Linux only
TICKS_PER_S = 100  # USER_HZ, which is the same on every architecture that we run on (man 5 proc)
START_FIELD = 19  # after the program's name: ticks from the machine's start to the process's


class StartTimes:
    """Notes when each stage of a start was reached. Follows the warm-up's run with `follow`."""

    def __init__(self, workflow: Workflow) -> None:
        """Begins when everything is imported; the warm-up draws with `workflow`."""
        self._imports_s = time.monotonic()
        self._began_s = self._imports_s - process_age_s()
        self._classes = {node: entry["class_type"] for node, entry in workflow.render({}).items()}
        self._run: Run | None = None
        self._node: str | None = None
        self._reached_s: dict[str, float] = {}

    def follow(self, run: Run) -> None:
        """Looks at the run after a message of ComfyUI."""
        if run is not self._run:  # after a failure, the last run counts
            self._run, self._node, self._reached_s = run, None, {}
        now_s = time.monotonic()
        if run.node != self._node:
            ended = self._classes.get(self._node or "", "")
            if "on_device" not in self._reached_s and "Loader" in ended:
                self._reached_s["weights_read"] = now_s
            if PATCH_CLASS.fullmatch(ended):
                self._reached_s["patched"] = now_s
            self._node = run.node
        if run.progress is not None:
            self._reached_s.setdefault("on_device", now_s)

    def seconds(self, comfyui_s: tuple[float, float] | None) -> dict[str, float]:
        """Returns the seconds from this process's start to each stage, up to now.

        process: ComfyUI's process begins; imports: this program has imported everything; comfyui_ready: ComfyUI takes
        graphs; weights_read: the last loader node has ended; patched: the transparency patch is added to the model;
        on_device: the sampler has done a step, for which the weights are on the device; warm: now.

        Args:
            comfyui_s: when ComfyUI was started and ready, on the monotonic clock.
        """
        now_s = time.monotonic()
        started_s, ready_s = comfyui_s or (now_s, now_s)
        reached_s = {"process": started_s, "imports": self._imports_s, "comfyui_ready": ready_s, **self._reached_s}
        return {stage: round(at_s - self._began_s, 2) for stage, at_s in {**reached_s, "warm": now_s}.items()}


def process_age_s() -> float:
    """Returns how long ago this process began, to 10 ms; 0 if the system does not say."""
    try:
        fields = PROCESS.read_text("utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[START_FIELD]) / TICKS_PER_S
