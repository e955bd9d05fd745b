"""What scripts/soak counts. The bookkeeping is the client's own, so it is tried against each fault that it is for."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.soak.faults import plan
from tools.soak.ledger import GONE, Answer, Ledger

DONE = Answer.of("COMPLETED", {"filename": "alpha_1_000001.png"})
OTHER = Answer.of("COMPLETED", {"filename": "alpha_1_000002.png"})
OUTPUT = {"filename": "alpha_1_000001.png", "info": json.dumps({"attempts": 2})}


@pytest.fixture
def ledger():
    """Has one job that ended well, with a webhook."""
    ledger = Ledger()
    ledger.accepted("good", is_posted=True)
    ledger.answered("good", DONE, OUTPUT)
    ledger.posted("good", DONE, OUTPUT)
    ledger.answered("good", DONE, OUTPUT)
    return ledger


def keys(jobs):
    return [job.key for job in jobs]


def test_a_good_job_is_neither_lost_nor_doubled(ledger):
    """Reading its end again, or from the webhook, does not count as a second end."""
    ledger.compare_pictures({"alpha_1_000001.png"})
    assert (ledger.lost, ledger.doubled, ledger.failed) == ([], [], [])
    assert (ledger.drawn_for_no_one, ledger.missing_pictures) == (0, 0)
    assert [job.attempts for job in ledger.jobs] == [2]


def test_lost_jobs_are_found(ledger):
    """Without an end, with one that was taken back, or without the post that was promised."""
    ledger.accepted("no end")
    assert [job.is_over for job in ledger.jobs] == [True, False]
    ledger.accepted("taken back")
    ledger.answered("taken back", DONE, OUTPUT)
    ledger.answered("taken back", Answer(GONE, ""))
    ledger.accepted("no post", is_posted=True)
    ledger.answered("no post", DONE, OUTPUT)
    assert keys(ledger.lost) == ["no end", "taken back", "no post"]
    assert ledger.doubled == []


def test_doubled_jobs_are_found(ledger):
    """Two ends, two posts, or a post that says something else."""
    ledger.accepted("two ends")
    ledger.answered("two ends", DONE, OUTPUT)
    ledger.answered("two ends", OTHER, OUTPUT)
    ledger.accepted("two posts", is_posted=True)
    ledger.posted("two posts", DONE, OUTPUT)
    ledger.posted("two posts", DONE, OUTPUT)
    ledger.accepted("another post", is_posted=True)
    ledger.answered("another post", Answer.of("CANCELLED", ""))
    ledger.posted("another post", DONE, OUTPUT)
    assert keys(ledger.doubled) == ["two ends", "two posts", "another post"]
    assert ledger.lost == []


def test_a_post_may_overtake_the_response(ledger):
    """The job is the same one."""
    ledger.posted("fast", DONE, OUTPUT)
    ledger.accepted("fast", is_posted=True)
    assert (ledger.lost, ledger.doubled) == ([], [])


def test_failures_that_are_not_expected_are_found(ledger):
    """A cancelled job may end as one; a job that nothing was done to must complete."""
    ledger.accepted("cancelled", frozenset({"CANCELLED"}))
    ledger.answered("cancelled", Answer.of("CANCELLED", "x"))
    ledger.accepted("failed")
    ledger.answered("failed", Answer.of("FAILED", "x"), error="comfyui_crashed: x")
    assert keys(ledger.failed) == ["failed"]


def test_pictures_of_no_one_are_found(ledger):
    """Each submission whose response was cut off explains one; a picture that was promised must be there."""
    ledger.cut_off()
    ledger.compare_pictures({"alpha_1_000001.png", "cut off", "a second drawing"})
    assert (ledger.drawn_for_no_one, ledger.missing_pictures) == (1, 0)
    ledger.compare_pictures(set())
    assert (ledger.drawn_for_no_one, ledger.missing_pictures) == (0, 1)


def test_the_seed_decides_the_faults():
    """Each kind occurs, in another order for another seed."""
    first, again, other = (plan(["a", "b", "c"], 9, 10, 90, seed) for seed in map(random.Random, (1, 1, 2)))
    assert first == again != other
    assert sorted(kind for _, kind in first) == sorted("abc" * 3)
    assert [after for after, _ in first] == sorted(after for after, _ in first)
    assert first[0][0] >= 10
    assert first[-1][0] <= 90


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("options", [[], ["--runpod"]])
def test_a_short_soak(options):
    """Each kind of fault once, and no job is lost, doubled or failed by one."""
    command = [sys.executable, "-m", "tools.soak", "--jobs", "20", "--faults", "14", *options]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = dict(re.findall(r"(\w+)=(\S+)", done.stdout.splitlines()[-1]))
    assert int(numbers["jobs"]) >= 20
    assert (numbers["lost"], numbers["doubled"]) == ("0", "0")
