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

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from skerry.errors import UnreachableError

PER_LEARNER = (
    ("skerry_learner_steps", "Steps of all generations.", "steps", CounterMetricFamily),
    ("skerry_learner_tokens", "Tokens processed.", "tokens", CounterMetricFamily),
    ("skerry_learner_tokens_per_second", "Over the last seconds.", "tokens_s", GaugeMetricFamily),
    ("skerry_learner_clock", "Its step as the rounds count it.", "clock", GaugeMetricFamily),
    ("skerry_learner_loss", "As it told last.", "loss", GaugeMetricFamily),
    ("skerry_learner_step_seconds", "Median of its recent steps.", "median_step_s", GaugeMetricFamily),
)


class Exporter(Collector):
    """Serves what `update` was given last. Its threads only read that one object."""

    def __init__(self, host: str, port: int) -> None:
        """Listen. Raises UnreachableError if that is not possible."""
        self._status: dict[str, Any] | None = None
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise UnreachableError(f"cannot serve /metrics on {host}:{port}: {error.strerror}",
                                   remedy="set metrics_port to another port, or to 0 for a free one") from error  # fmt: skip
        self.port: int = self._server.server_port

    def update(self, status: dict[str, Any]) -> None:
        """`status`: figures.status and, beside it, refused, queue, buffers_free, snapshot_age."""
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
            for name, text, key, family in PER_LEARNER:
                metric = family(name, text, labels=["learner"])
                for line in status["learners"]:
                    if line.get(key) is not None:
                        metric.add_metric([str(line["learner"])], line[key])
                yield metric
            up = GaugeMetricFamily("skerry_learner_up", "Whether it trains.", labels=["learner", "state"])
            for line in status["learners"]:
                up.add_metric([str(line["learner"]), line["state"]], line["state"] == "training")
            yield up


def _run(status: dict[str, Any]) -> Iterator[Metric]:
    info = GaugeMetricFamily("skerry_run_info", "The run.", labels=["run", "phase"])
    info.add_metric([status["run"], status["phase"]], 1)
    yield info
    for name, key, text in (
        ("params", "params", "Trainable parameters."), ("step", "step", "The run's step."),
        ("progress_ratio", "progress", "Share of the budget."), ("live_learners", "live", "Learners that count for quorums."),
        ("rounds_open", "rounds_open", "Open rounds."), ("contributors_mean", "mean_contributors", "Merged in a round."),
        ("grace_seconds", "grace_s", "The present grace window."), ("merger_queue", "queue", "Jobs that wait."),
        ("buffers_free", "buffers_free", "Receive buffers."), ("snapshot_age_seconds", "snapshot_age", "Of the last one."),
    ):  # fmt: skip
        yield GaugeMetricFamily(f"skerry_{name}", text, status[key])
    params, amounts = status["params"], status["ledger"]
    yield GaugeMetricFamily("skerry_tokens_pending", "Neither merged nor lost.", amounts["pending"] / params)
    fates = {"processed": amounts["processed"], "merged": amounts["merged"], **status["lost_by_cause"]}
    yield _counter("tokens", "fate", {fate: amount / params for fate, amount in fates.items()})
    yield _counter("bytes", "direction", {"up": status["bytes_up"], "down": status["bytes_down"]})
    yield _counter("rounds", "result", {"closed": status["rounds"], "cancelled": status["rounds_cancelled"],
                                        "skipped": status["rounds_skipped"]})  # fmt: skip
    yield CounterMetricFamily("skerry_refused", "Contributions refused for their values.", status["refused"])


def _counter(name: str, label: str, values: dict[str, Any]) -> Metric:
    metric = CounterMetricFamily(f"skerry_{name}", f"By {label}.", labels=[label])
    for value, count in values.items():
        metric.add_metric([value], count)
    return metric
