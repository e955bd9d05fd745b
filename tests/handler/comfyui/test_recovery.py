"""The retry policy, without ComfyUI."""

import pytest

from handler.comfyui.recovery import PAUSES_S, Attempts, Recovery, Remedy
from handler.errors import (
    BadPicture,
    ComfyBroken,
    ComfyCrashed,
    GpuBroken,
    JobCancelled,
    JobTimeout,
    NodeFailed,
    NotTransparent,
    OutOfMemory,
)

FAIL, AGAIN, FREE, RESTART, GIVE_UP = (
    Remedy.FAIL,
    Remedy.RUN_AGAIN,
    Remedy.FREE_AND_RUN_AGAIN,
    Remedy.RESTART_AND_RUN_AGAIN,
    Remedy.GIVE_UP,
)
BEGUN, UNBEGUN = ComfyCrashed("lost", begun=True), ComfyCrashed("lost", begun=False)
CUDA = GpuBroken("KSampler failed with AcceleratorError: CUDA error: an illegal memory access was encountered")


def remedies(*errors, recovery=None, request="a"):
    """Returns the action after each error of one job, and the number of its attempts."""
    recovery, attempts = recovery or Recovery(), Attempts(request)
    return [recovery.after(error, attempts) for error in errors], attempts.count


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([BEGUN, BEGUN], [AGAIN, FAIL]),
        ([UNBEGUN, UNBEGUN, UNBEGUN], [AGAIN, AGAIN, FAIL]),
        ([UNBEGUN, BEGUN, UNBEGUN, BEGUN], [AGAIN, AGAIN, AGAIN, FAIL]),
        ([OutOfMemory("x"), OutOfMemory("x")], [FREE, FAIL]),
        ([CUDA, CUDA], [RESTART, GIVE_UP]),
        ([ComfyBroken("HTTP 500"), ComfyBroken("HTTP 500")], [RESTART, GIVE_UP]),
        ([CUDA, NodeFailed("x")], [RESTART, FAIL]),
        ([CUDA, BEGUN, CUDA], [RESTART, AGAIN, GIVE_UP]),
    ],
)
def test_one_job(errors, expected):
    """Each kind of failure, until the job fails: what is done, and how many attempts there were."""
    found, count = remedies(*errors)
    assert found == expected
    assert count == len(errors)


@pytest.mark.parametrize(
    "error", [JobCancelled("x"), JobTimeout("x"), BadPicture("x"), NotTransparent("x"), NodeFailed("x")]
)
def test_the_jobs_own_errors_fail_it(error):
    """An error that says nothing about ComfyUI, or a first node_failed, is not repeated."""
    assert remedies(error) == ([FAIL], 1)


def test_two_requests_in_a_row_make_comfyui_the_suspect():
    """The second request's failure restarts ComfyUI, and its repetition there gives it up."""
    recovery = Recovery()
    assert remedies(NodeFailed("x"), recovery=recovery, request="a")[0] == [FAIL]
    assert remedies(NodeFailed("x"), recovery=recovery, request="a")[0] == [FAIL]
    assert remedies(NodeFailed("x"), NodeFailed("x"), recovery=recovery, request="b")[0] == [RESTART, GIVE_UP]


def test_a_fault_is_remembered_until_a_picture_is_drawn():
    """A CUDA error in the next job gives ComfyUI up, unless a picture came between the two."""
    recovery = Recovery()
    assert remedies(CUDA, JobCancelled("x"), recovery=recovery)[0] == [RESTART, FAIL]
    recovery.drawn()
    assert remedies(CUDA, JobCancelled("x"), recovery=recovery)[0] == [RESTART, FAIL]
    assert remedies(CUDA, recovery=recovery, request="b")[0] == [GIVE_UP]


def test_restarts_are_counted_and_slow_down():
    """Five restarts between two pictures, each after a longer pause; then it is hopeless, and tried once a minute."""
    recovery = Recovery()
    pauses = [recovery.ended(was_ready=True, up_s=5) for _ in PAUSES_S]
    assert [restart.after_s for restart in pauses] == list(PAUSES_S)
    assert not any(restart.hopeless for restart in pauses)
    assert recovery.ended(was_ready=True, up_s=5).hopeless
    recovery.drawn()
    assert recovery.ended(was_ready=True, up_s=5).after_s == 0


def test_a_start_that_fails_three_times_is_hopeless():
    """It would fail a fourth time; a start that succeeds begins the count again."""
    recovery = Recovery()
    assert [recovery.ended(was_ready=False, up_s=0).hopeless for _ in range(3)] == [False, False, True]
    recovery.drawn()
    starts = [False, False, True, False, False]
    assert not any(recovery.ended(was_ready=ready, up_s=1).hopeless for ready in starts)


def test_an_end_after_a_long_time_is_the_first():
    """An idle ComfyUI that is killed once a day is restarted at once each time."""
    recovery = Recovery()
    assert all(recovery.ended(was_ready=True, up_s=86_400).after_s == 0 for _ in range(20))
