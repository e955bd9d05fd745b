import pytest

from handler.comfyui import ending

TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "/x/main.py", line 1, in <module>',
    "    import torch",
]


@pytest.mark.parametrize(
    ("status", "lines", "reason"),
    [
        (1, [*TRACEBACK, "RuntimeError: Found no NVIDIA driver"], "RuntimeError: Found no NVIDIA driver"),
        (1, [*TRACEBACK, "ValueError: a", *TRACEBACK, "torch.AcceleratorError: b"], "torch.AcceleratorError: b"),
        (1, [*TRACEBACK, "KeyboardInterrupt", "bye"], "KeyboardInterrupt"),
        (1, ["ValueError: logged, not raised"], "exit status 1"),
        (3, [], "exit status 3"),
        (-9, [*TRACEBACK, "ValueError: an older one"], "it was killed by SIGKILL"),
        (-11, [], "it was killed by SIGSEGV"),
    ],
)
def test_the_reason_is_the_exception_or_the_status(status, lines, reason):
    """The last traceback's exception is the reason; without one, or after a signal, the exit status is."""
    assert ending.reason(status, lines) == reason
