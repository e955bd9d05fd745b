"""The HTTP server's counters, in the text format of Prometheus."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

import handler

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.accepted = Counter("alpha_jobs_accepted", "Jobs accepted.", registry=registry)
        self.finished = Counter("alpha_jobs_finished", "Finished jobs by outcome.", ["outcome"], registry=registry)
        self.errors = Counter("alpha_job_errors", "Failed jobs by error code.", ["code"], registry=registry)
        self._seconds = Histogram(
            "alpha_stage_seconds", "Seconds by stage of a job.", ["stage"], buckets=SECONDS, registry=registry
        )

        Info("alpha_build", "The version that runs.", registry=registry).info({"version": handler.__version__})
        ProcessCollector(registry=registry)

    def observe(self, pictures: Iterable[Mapping[str, float]]) -> None:
        """Adds the seconds by stage of each picture of a job."""
        for seconds in pictures:
            for stage, value in seconds.items():
                self._seconds.labels(stage).observe(value)

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Adds a gauge that calls `value` whenever the metrics are read."""
        Gauge(name, help_text, registry=self._registry).set_function(value)

    def watch_counter(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Adds a counter that calls `value` whenever the metrics are read."""
        self._registry.register(_WatchedCounter(name, help_text, value))

    def text(self) -> bytes:
        """Returns all metrics as `text/plain; version=0.0.4`."""
        return generate_latest(self._registry)


class _WatchedCounter(Collector):
    def __init__(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        self._name, self._help_text, self._value = name, help_text, value

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._help_text, value=self._value())
