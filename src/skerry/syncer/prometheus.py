"""GET /metrics in Prometheus' text format, on a port of its own, from the status of the last second. Names:

skerry_run_info{run, phase}              1                    skerry_params
skerry_step, skerry_progress_ratio                            skerry_live_learners
skerry_rounds_total{result}              closed, cancelled, skipped
skerry_rounds_open, skerry_contributors_mean, skerry_grace_seconds
skerry_tokens_total{fate}                processed, merged, overlap, excluded, refused, died (parameter-weighted)
skerry_tokens_pending
skerry_bytes_total{direction}            up, down
skerry_refused_total                     contributions refused for their values
skerry_merger_queue, skerry_buffers_free
skerry_snapshot_age_seconds              NaN before the first
skerry_learner_up{learner, state}        1 if it trains
skerry_learner_steps_total{learner}, skerry_learner_tokens_total{learner}, skerry_learner_tokens_per_second{learner},
skerry_learner_clock{learner}, skerry_learner_loss{learner}, skerry_learner_step_seconds{learner}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from skerry.errors import UnreachableError
from skerry.store.records import Sample, Status

Family = type[CounterMetricFamily] | type[GaugeMetricFamily]
PER_LEARNER: tuple[tuple[str, str, Callable[[Sample], float | None], Family], ...] = (
    ("steps", "Steps of all generations.", lambda sample: sample.steps, CounterMetricFamily),
    ("tokens", "Tokens processed.", lambda sample: sample.tokens, CounterMetricFamily),
    ("tokens_per_second", "Over the last seconds.", lambda sample: sample.tokens_s, GaugeMetricFamily),
    ("clock", "Its step as the rounds count it.", lambda sample: sample.clock, GaugeMetricFamily),
    ("loss", "As it told last.", lambda sample: sample.loss, GaugeMetricFamily),
    ("step_seconds", "Median of its recent steps.", lambda sample: sample.median_step_s, GaugeMetricFamily),
)


class Exporter(Collector):
    """Serves what `update` was given last. Its threads only read that one record."""

    def __init__(self, host: str, port: int) -> None:
        """Listen. Raises UnreachableError if that is not possible."""
        self._status: Status | None = None
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise UnreachableError(f"cannot serve /metrics on {host}:{port}: {error.strerror}",
                                   remedy="set metrics_port to another port, or to 0 for a free one") from error  # fmt: skip
        self.port: int = self._server.server_port

    def update(self, status: Status) -> None:
        """How the run fares, with its learners."""
        self._status = status

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for on every GET."""
        status = self._status
        if status is not None:
            yield from _run(status)
            for name, text, figure, family in PER_LEARNER:
                metric = family(f"skerry_learner_{name}", text, labels=["learner"])
                for sample in status.learners:
                    value = figure(sample)
                    if value is not None:
                        metric.add_metric([str(sample.learner)], value)
                yield metric
            up = GaugeMetricFamily("skerry_learner_up", "Whether it trains.", labels=["learner", "state"])
            for sample in status.learners:
                up.add_metric([str(sample.learner), sample.state], sample.state == "training")
            yield up


def _run(status: Status) -> Iterator[Metric]:
    info = GaugeMetricFamily("skerry_run_info", "The run.", labels=["run", "phase"])
    info.add_metric([status.run, status.phase], 1)
    yield info
    age = float("nan") if status.snapshot_age is None else status.snapshot_age
    for name, value, text in (
        ("params", status.params, "Trainable parameters."), ("step", status.step, "The run's step."),
        ("progress_ratio", status.progress, "Share of the budget."),
        ("live_learners", status.live, "Learners that count for quorums."),
        ("rounds_open", status.rounds_open, "Open rounds."),
        ("contributors_mean", status.mean_contributors, "Merged in a round."),
        ("grace_seconds", status.grace_s, "The present grace window."), ("merger_queue", status.queue, "Jobs that wait."),
        ("buffers_free", status.buffers_free, "Receive buffers."), ("snapshot_age_seconds", age, "Of the last one."),
    ):  # fmt: skip
        yield GaugeMetricFamily(f"skerry_{name}", text, value)
    params, amounts = max(status.params, 1), status.ledger
    yield GaugeMetricFamily("skerry_tokens_pending", "Neither merged nor lost.", amounts.pending / params)
    fates = {"processed": amounts.processed, "merged": amounts.merged, **status.lost_by_cause}
    yield _counter("tokens", "fate", {fate: amount / params for fate, amount in fates.items()})
    yield _counter("bytes", "direction", {"up": status.bytes_up, "down": status.bytes_down})
    yield _counter("rounds", "result", {"closed": status.rounds, "cancelled": status.rounds_cancelled,
                                        "skipped": status.rounds_skipped})  # fmt: skip
    yield CounterMetricFamily("skerry_refused", "Contributions refused for their values.", status.refused)


def _counter(name: str, label: str, values: Mapping[str, float]) -> Metric:
    metric = CounterMetricFamily(f"skerry_{name}", f"By {label}.", labels=[label])
    for value, count in values.items():
        metric.add_metric([value], count)
    return metric
