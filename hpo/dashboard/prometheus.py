"""What Prometheus reads at ``/metrics``: the totals of every study, in its text format.

Each read asks the database for aggregates (``store.totals``); no trial is read whole.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hpo.store.plan import ORDER_PAUSED, ORDER_STOPPED
from hpo.store.storage import Storage
from hpo.store.totals import StudyTotals, read_totals

MEDIA_TYPE = "text/plain; version=0.0.4"


def render_metrics(storage: Storage) -> str:
    """Return the metrics of every study of hpo in a store.

    Raises:
        StoreError: The store cannot be read.
    """
    registry = CollectorRegistry()
    registry.register(_Totals(read_totals(storage)))
    return generate_latest(registry).decode()


class _Totals(Collector):
    """The metrics that ``docs/how-to/monitor.md`` lists."""

    def __init__(self, totals: list[StudyTotals]) -> None:
        self.totals = totals

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its samples of all studies."""
        yield from self._counts()
        yield from self._ages()
        best = GaugeMetricFamily(
            "hpo_best_value",
            "The best value of a complete trial, by objective.",
            labels=("study", "objective"),
        )
        for each in self.totals:
            for objective, value in each.best.items():
                best.add_metric((each.name, objective), value)
        yield best

    def _counts(self) -> Iterator[Metric]:
        trials = GaugeMetricFamily("hpo_trials", "Trials by state.", labels=("study", "state"))
        workers = GaugeMetricFamily(
            "hpo_workers",
            "Living workers: of state training with a trial, of state waiting without one.",
            labels=("study", "state"),
        )
        orders = GaugeMetricFamily(
            "hpo_study_order",
            "Whether somebody has paused or stopped the study.",
            labels=("study", "order"),
        )
        reports = CounterMetricFamily(
            "hpo_reports",
            "Epochs that trials have reported, each once.",
            labels=("study",),
        )
        attempts = CounterMetricFamily(
            "hpo_attempts", "Attempts at trials that have ended, by outcome.", labels=("study", "outcome")
        )
        retries = CounterMetricFamily(
            "hpo_retries", "How often somebody has set a trial back.", labels=("study",)
        )
        for each in self.totals:
            for state, count in each.trials.items():
                trials.add_metric((each.name, state), count)
            workers.add_metric((each.name, "training"), len(each.held_trials))
            workers.add_metric((each.name, "waiting"), each.waiting_workers)
            for order in (ORDER_PAUSED, ORDER_STOPPED):
                orders.add_metric((each.name, order), each.order == order)
            reports.add_metric((each.name,), each.reports)
            for outcome, count in each.attempts.items():
                attempts.add_metric((each.name, outcome), count)
            retries.add_metric((each.name,), each.retried)
        yield from (trials, workers, orders, reports, attempts, retries)

    def _ages(self) -> Iterator[Metric]:
        labels = ("study", "worker", "device")
        heartbeat = GaugeMetricFamily(
            "hpo_lease_age_seconds", "Since a worker last renewed the lease of its trial.", labels=labels
        )
        report = GaugeMetricFamily(
            "hpo_report_age_seconds",
            "Since a worker's trial last reported an epoch or, before that, was claimed.",
            labels=labels,
        )
        for each in self.totals:
            for held in each.held_trials:
                where = (each.name, held.worker, held.device)
                heartbeat.add_metric(where, held.heartbeat_seconds)
                if held.report_seconds is not None:
                    report.add_metric(where, held.report_seconds)
        yield from (heartbeat, report)
