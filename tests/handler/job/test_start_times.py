"""When each stage of a start was reached, from what the real ComfyUI sent (tests/handler/comfyui/transcripts)."""

import subprocess
import sys
import time

from recorded_runs import recorded_run

from handler.job.profiles import load
from handler.job.start_times import StartTimes
from handler.settings import Settings


def replay(times, name, slowly_s=0.0):
    for run in recorded_run(name):
        times.follow(run)
        time.sleep(slowly_s)


def test_each_stage_is_noted_once_and_in_its_order():
    """The last run counts: what an earlier one reached, which failed, took no part in this start."""
    times = StartTimes(load(Settings(profile="tiny")))
    replay(times, "success")
    again_s = time.monotonic()
    replay(times, "success", slowly_s=0.02)
    seconds = times.seconds((again_s, again_s))
    assert list(seconds) == ["process", "imports", "comfyui_ready", "weights_read", "patched", "on_device", "warm"]
    rest = [seconds[stage] for stage in ("comfyui_ready", "weights_read", "patched", "on_device", "warm")]
    assert rest == sorted(rest)
    assert len(set(rest)) == len(rest)


def test_the_age_of_a_process():
    """It includes what happened before the interpreter ran anything of ours."""
    program = "import time; time.sleep(0.3); from handler.job import start_times; print(start_times.process_age_s())"
    began_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0.29 < float(done.stdout) < time.monotonic() - began_s + 0.02
