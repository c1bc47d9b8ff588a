"""The figures of a scenario by theory: the dashed lines."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from trio_replica._advice.calls import Calls
from trio_replica._advice.levels import Batches, Nodes, Singles

from . import closed_forms
from .scenarios import LARGEST_SHOWN, Burst, Producers, Stalled, Steady

if TYPE_CHECKING:
    from trio_replica._advice.calls import BatchCost

    from .scenarios import Scenario, Service

TOP: Final = 2 * LARGEST_SHOWN
"""The blobs in the system that are looked at."""


class Theory(NamedTuple):
    """The figures that are known without drawing; None is not known."""

    share: float | None = None
    """The share of the puts that wait."""
    p99_wait: float | None = None
    """Seconds."""
    mean_loss: float | None = None
    """Blobs."""


def theory(scenario: Scenario, queue_size: int, *, batches: bool) -> Theory | None:
    """Return what is known of one point, if anything is."""
    if isinstance(scenario, Steady):
        return _steady(scenario, queue_size, batches=batches)
    if batches:
        return None
    if isinstance(scenario, Burst):
        even = scenario.puts, scenario.rate, 1 / scenario.service.mean, queue_size
        return Theory(
            closed_forms.burst_waiting(*even) / scenario.puts, closed_forms.burst_quantile(*even, quantile=0.99)
        )
    if isinstance(scenario, Stalled):
        return Theory(
            closed_forms.stall_share(scenario.rate, scenario.seconds, queue_size),
            closed_forms.stall_quantile(scenario.rate, scenario.seconds, queue_size, 0.99),
        )
    assert isinstance(scenario, Producers)
    if scenario.pause:
        return Theory(closed_forms.producers_with_pauses(scenario.producers, scenario.pause, 1.0, queue_size)[0])
    return Theory(1.0)


def _steady(scenario: Steady, queue_size: int, *, batches: bool) -> Theory | None:
    service, *others = scenario.services
    if scenario.cost is not None:
        return _batched(scenario, scenario.cost, service, queue_size if batches else 1, queue_size)
    if others or (batches and queue_size > 1):
        return None
    if service.cv == 1:
        exact = closed_forms.mm1(scenario.rate, 1 / service.mean, queue_size)
        return Theory(exact.share, exact.p99_wait, exact.mean_loss)
    singles = _singles(scenario.rate, service)
    return Theory(singles.share(queue_size), None, singles.mean_loss(queue_size))


def _batched(scenario: Steady, cost: BatchCost, service: Service, batch_size: int, queue_size: int) -> Theory:
    if not closed_forms.batches_keep_up(scenario.rate, *cost, batch_size):
        return Theory(1.0)
    queue = _batches(scenario.rate, service, cost, batch_size)
    return Theory(queue.share(queue_size), None, queue.mean_loss(queue_size))


@cache
def _singles(rate: float, service: Service) -> Singles:
    return Singles(Calls(rate, service.mean, service.cv), TOP)


@cache
def _batches(rate: float, service: Service, cost: BatchCost, batch_size: int) -> Batches:
    """Return the queue for batches that always take what they cost."""
    return Batches(Nodes(Calls(rate, service.mean, 0.0, cost), 4 * batch_size + 200, 4 * batch_size), batch_size)
