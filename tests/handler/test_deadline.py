import threading
import time

import pytest

from handler.deadline import Deadline
from handler.errors import JobCancelled, JobTimeout


def test_time_left_is_positive_until_it_is_over():
    """left_s returns the time left, then raises."""
    deadline = Deadline(0.05)
    assert 0 < deadline.left_s() <= 0.05
    time.sleep(0.06)
    with pytest.raises(JobTimeout, match="longer than 0.05 s"):
        deadline.left_s()


def test_cancelling_wakes_a_sleeper():
    """A sleep ends at once when another thread cancels."""
    deadline = Deadline(60)
    threading.Timer(0.05, deadline.cancel).start()
    before = time.monotonic()
    deadline.sleep(30)
    assert time.monotonic() - before < 5
    with pytest.raises(JobCancelled):
        deadline.left_s()


def test_a_sleep_ends_with_the_deadline():
    """No sleep outlasts the time left."""
    before = time.monotonic()
    Deadline(0.05).sleep(30)
    assert time.monotonic() - before < 5
