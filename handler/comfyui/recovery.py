"""What happens after a failure: the one place with a retry policy. Pure state, no clock, process or socket.

An error says one of four things about ComfyUI (`fault_of`); any other error is the job's own and fails it.

    lost           It ended, hangs or forgot the run: the job runs again, once if it had begun and twice if it had not.
    broken         It answers but can no longer draw, as after most CUDA errors: it is restarted, and the job runs
                   again. If it breaks again before it has drawn a picture, it is given up.
    node failed    The request may be the cause. If the next failure in a row is another request's, then it is
                   ComfyUI that is broken.
    out of memory  Its memory is freed, and the job runs again, once.
"""

import enum
from dataclasses import dataclass

from handler.errors import ComfyBroken, ComfyCrashed, GenerationError, GpuBroken, NodeFailed, OutOfMemory

LOST_BEGUN = 1  # how often a job runs again
LOST_UNBEGUN = 2
PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0)  # before the restarts between two pictures
FAILED_STARTS = 3  # in a row; more would only repeat them
HOPELESS_PAUSE_S = 60.0
STEADY_S = 600.0  # an end after this long has nothing to do with the one before


class Fault(enum.Enum):
    """What an error says about ComfyUI."""

    LOST = enum.auto()
    BROKEN = enum.auto()
    NODE_FAILED = enum.auto()
    OUT_OF_MEMORY = enum.auto()


class Remedy(enum.Enum):
    """What is done after an error."""

    FAIL = enum.auto()
    RUN_AGAIN = enum.auto()
    FREE_AND_RUN_AGAIN = enum.auto()
    RESTART_AND_RUN_AGAIN = enum.auto()
    GIVE_UP = enum.auto()


@dataclass
class Attempts:
    """A job's attempts so far.

    Attributes:
        request: what tells jobs apart; two equal ones may fail for a reason of their own.
        count: the attempt that runs or was the last.
    """

    request: object
    count: int = 1
    lost_begun: int = 0
    lost_unbegun: int = 0
    freed: bool = False


@dataclass(frozen=True)
class Restart:
    """When ComfyUI is started again.

    Attributes:
        after_s: seconds to wait.
        hopeless: whether it failed so often that no job should wait for it.
    """

    after_s: float
    hopeless: bool


def fault_of(error: GenerationError) -> Fault | None:
    """Returns what the error says about ComfyUI; None if nothing."""
    match error:
        case ComfyBroken() | GpuBroken():
            return Fault.BROKEN
        case ComfyCrashed():
            return Fault.LOST
        case OutOfMemory():
            return Fault.OUT_OF_MEMORY
        case NodeFailed():
            return Fault.NODE_FAILED
    return None


class Recovery:
    """What is remembered of ComfyUI's failures from one job to the next, until a picture is drawn."""

    def __init__(self) -> None:
        self.drawn()

    def drawn(self) -> None:
        """Forgets all failures: ComfyUI has drawn a picture."""
        self._suspect: Fault | None = None  # ComfyUI was restarted because of it
        self._failed_request: object = None
        self._failed_starts = 0
        self._ends = 0

    def after(self, error: GenerationError, attempts: Attempts) -> Remedy:
        """Returns what is done after an attempt's error, and counts it in `attempts`."""
        remedy = self._after(fault_of(error), error, attempts)
        if remedy not in {Remedy.FAIL, Remedy.GIVE_UP}:
            attempts.count += 1
        return remedy

    def _after(self, fault: Fault | None, error: GenerationError, attempts: Attempts) -> Remedy:
        match fault:
            case Fault.LOST:
                begun = isinstance(error, ComfyCrashed) and error.begun
                attempts.lost_begun += begun
                attempts.lost_unbegun += not begun
                again = attempts.lost_begun <= LOST_BEGUN and attempts.lost_unbegun <= LOST_UNBEGUN
                return Remedy.RUN_AGAIN if again else Remedy.FAIL
            case Fault.OUT_OF_MEMORY:
                again, attempts.freed = not attempts.freed, True
                return Remedy.FREE_AND_RUN_AGAIN if again else Remedy.FAIL
            case Fault.NODE_FAILED if fault is not self._suspect and self._failed_request in (None, attempts.request):
                self._failed_request = attempts.request
                return Remedy.FAIL
            case Fault.BROKEN | Fault.NODE_FAILED:
                if fault is self._suspect:
                    return Remedy.GIVE_UP
                self._suspect = fault
                return Remedy.RESTART_AND_RUN_AGAIN
        return Remedy.FAIL

    def ended(self, was_ready: bool, up_s: float) -> Restart:
        """Returns when ComfyUI is started again after it has ended.

        Args:
            was_ready: whether its start had succeeded.
            up_s: for how many seconds it had been ready.
        """
        self._failed_starts = 0 if was_ready else self._failed_starts + 1
        self._ends = 1 if up_s > STEADY_S else self._ends + 1
        hopeless = self._failed_starts >= FAILED_STARTS or self._ends > len(PAUSES_S)
        return Restart(HOPELESS_PAUSE_S if hopeless else PAUSES_S[self._ends - 1], hopeless)
