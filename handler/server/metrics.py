"""The HTTP server's counters, in the text format of Prometheus."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.accepted = Counter("alpha_jobs_accepted", "Jobs accepted.", registry=registry)
        self.finished = Counter("alpha_jobs_finished", "Finished jobs by outcome.", ["outcome"], registry=registry)
        self._seconds = Histogram(
            "alpha_stage_seconds", "Seconds by stage of a job.", ["stage"], buckets=SECONDS, registry=registry
        )

    def observe(self, seconds: Mapping[str, float]) -> None:
        """Adds a job's seconds by stage."""
        for stage, value in seconds.items():
            self._seconds.labels(stage).observe(value)

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Adds a gauge that calls `value` whenever the metrics are read."""
        Gauge(name, help_text, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Returns all metrics as `text/plain; version=0.0.4`."""
        return generate_latest(self._registry)
