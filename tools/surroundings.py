"""What a container may find around it: another user, no HOME, a read-only root, odd settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

VOLUME = "/runpod-volume/models"


@dataclass(frozen=True)
class Surroundings:
    """What a container is started with.

    Attributes:
        environment: changes to the image's.
        has_home: whether HOME is set.
        volume: a folder of weights, mounted read-only.
        user: instead of the image's, for example "12345:12345".
        tmpfs: sizes of folders in memory by their path, for example {"/tmp": "64m"}. If there are any, everything
            else is read-only; with buildah, they are ignored.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    has_home: bool = True
    volume: Path | None = None
    user: str = ""
    tmpfs: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> list[str]:
        """Returns them as options that `docker run` and `buildah run` have in common."""
        options = [part for name, value in self.environment.items() for part in ("--env", f"{name}={value}")]
        options += ["--user", self.user] if self.user else []
        return options + ([] if self.volume is None else ["--volume", f"{self.volume}:{VOLUME}:ro"])


AS_BUILT = Surroundings()

STRANGER = "12345:12345"  # no entry in /etc/passwd
SMALL_TMPFS = {"/tmp": "32m", "/data": "32m"}  # noqa: S108
ODD_LOCALE = {"LC_ALL": "xx_YY.ISO-8859-1", "LANG": "POSIX"}
MATRIX = {
    "user id 12345": Surroundings(user=STRANGER),
    "user id 12345 without HOME": Surroundings(user=STRANGER, has_home=False),
    "a HOME that cannot be written": Surroundings(environment={"HOME": "/proc"}),
    "a HOME that does not exist": Surroundings(environment={"HOME": "/nonexistent"}),
    "a read-only root with 32 MB at /tmp and /data": Surroundings(tmpfs=SMALL_TMPFS),
    "an odd locale": Surroundings(environment=ODD_LOCALE),
}
# DATA_DIR: with buildah, /data is not a tmpfs, and belongs to the image's user.
ALL_AT_ONCE = Surroundings(
    environment={**ODD_LOCALE, "DATA_DIR": "/tmp/data"},  # noqa: S108
    has_home=False,
    user=STRANGER,
    tmpfs=SMALL_TMPFS,
)
