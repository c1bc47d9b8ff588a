"""The closed forms that the recursion is compared with: what a queue of `queue_size` does, without drawing anything.

`docs/queue-size.md` derives them. `rate` is that of the puts and `service_rate` that of the store, both a second; what
is exact for any service time, and for batches, is in `levels`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Waits(NamedTuple):
    """The figures that a formula gives for one queue size."""

    share: float
    """The share of the puts that wait."""
    mean_wait: float
    """Seconds, of all puts."""
    p99_wait: float
    """Seconds."""
    mean_loss: float
    """Blobs accepted and not yet written, averaged over time."""


# Poisson arrivals and exponential service times: M/M/1


def mm1(rate: float, service_rate: float, queue_size: int) -> Waits:
    """Return what happens in the steady state: N blobs or more are there with probability ρ^N, and arrivals see that.

    Raises:
      ValueError: if the store does not keep up.

    """
    load = _load(rate, service_rate)
    share = load ** (queue_size + 1)
    return Waits(
        share,
        share / (service_rate - rate),
        mm1_quantile(rate, service_rate, queue_size, 0.99),
        load * (1 - share) / (1 - load),
    )


def mm1_quantile(rate: float, service_rate: float, queue_size: int, quantile: float) -> float:
    """Return the wait that so large a share of the puts does not exceed; beyond 0 waits are exponential."""
    share = _load(rate, service_rate) ** (queue_size + 1)
    return max(0.0, math.log(share / (1 - quantile)) / (service_rate - rate))


def two_stores(rate: float, service_rates: tuple[float, float], queue_size: int) -> tuple[float, float]:
    """Return the bounds of the share of puts that wait for at least one of two stores."""
    shares = [mm1(rate, service_rate, queue_size).share for service_rate in service_rates]
    return max(shares), min(1.0, sum(shares))


# A burst of blobs at a rate that the store does not keep up with; overload is a burst of all that comes. All is even


def burst_least(blobs: int, rate: float, service_rate: float) -> int:
    """Return the least queue size with which no put waits."""
    return math.ceil((blobs - 1) * (1 - service_rate / rate))


def burst_waiting(blobs: int, rate: float, service_rate: float, queue_size: int) -> int:
    """Return how many puts wait."""
    return max(0, blobs - 1 - math.floor(queue_size / (1 - service_rate / rate)))


def burst_longest(blobs: int, rate: float, service_rate: float, queue_size: int) -> float:
    """Return the longest wait, which is the last put's."""
    return max(0.0, (blobs - 1 - queue_size) / service_rate - (blobs - 1) / rate)


def burst_quantile(blobs: int, rate: float, service_rate: float, queue_size: int, quantile: float) -> float:
    """Return the wait that so large a share of the puts does not exceed: each waits longer than the one before."""
    place = math.ceil(quantile * blobs) - 1
    return max(0.0, (place - queue_size) / service_rate - place / rate)


# A stall of some seconds. All is even


def stall_waiting(rate: float, service_rate: float, seconds: float, queue_size: int) -> float:
    """Return how many puts wait: those after the first `queue_size`, until the store has caught up."""
    return max(0.0, rate * seconds - queue_size) / (1 - _load(rate, service_rate))


def stall_longest(rate: float, seconds: float, queue_size: int) -> float:
    """Return the longest wait: that of the first put that finds no room."""
    return max(0.0, seconds - queue_size / rate)


def stall_caught_up(rate: float, service_rate: float, seconds: float) -> float:
    """Return how long after its beginning all blobs that arrived during it are written."""
    return seconds / (1 - _load(rate, service_rate))


def stall_share(rate: float, seconds: float, queue_size: int) -> float:
    """Return the share of the puts that wait, of those that come until the store has caught up."""
    return max(0.0, 1 - queue_size / (rate * seconds))


def stall_quantile(rate: float, seconds: float, queue_size: int, quantile: float) -> float:
    """Return the wait that so large a share of these does not exceed: waits shorten evenly from the longest to 0."""
    share = stall_share(rate, seconds, queue_size)
    return stall_longest(rate, seconds, queue_size) * max(0.0, 1 - (1 - quantile) / share) if share else 0.0


def stall_size(rate: float, seconds: float, deviations: float) -> float:
    """Return the count that Poisson arrivals exceed as often as a normal variable exceeds so many deviations."""
    return rate * seconds + deviations * math.sqrt(rate * seconds)


# Producers that put one blob after another, with exponential service times


def producers_at_once(producers: int, service_rate: float) -> tuple[float, float]:
    """Return, for producers that don't pause, the blobs written a second and the seconds between two of a producer."""
    return service_rate, producers / service_rate


def producers_with_pauses(producers: int, pause: float, service_rate: float, queue_size: int) -> tuple[float, float]:
    """Return the share of puts that wait and the mean wait, if the pauses are exponential with that mean.

    Of N blobs in the system those beyond `queue_size` + 1 keep their producers waiting; the others' come back at a rate
    of 1/pause each. N goes up and down by one, so P(N+1)/P(N) = up(N)/down.
    """
    most = producers + queue_size + 1
    blobs = np.arange(most + 1)
    waiting = np.maximum(0, blobs - queue_size - 1)
    up = (producers - waiting) / pause
    chances = np.concatenate([[1.0], np.cumprod(up[:-1] / service_rate)])
    chances /= chances.sum()
    puts = float(chances @ up)
    return float((chances * up)[queue_size + 1 :].sum()) / puts, float(chances @ waiting) / puts


# Batches that cost fixed + each·k


def batches_keep_up(rate: float, fixed: float, each: float, batch_size: int) -> bool:
    """Return whether batches of up to that size are written as fast as blobs come."""
    return rate * (fixed + each * batch_size) < batch_size


def mean_batch(rate: float, fixed: float, each: float) -> float:
    """Return how many blobs a batch has on average, if that is many and it may have more."""
    return rate * fixed / (1 - rate * each)


def batch_safe_start(rate: float, fixed: float, each: float, deviations: float) -> float:
    """Return a queue size to begin with, if a batch has many blobs on average."""
    usual = mean_batch(rate, fixed, each)
    return usual + deviations * math.sqrt(usual / (1 - (rate * each) ** 2))


def _load(rate: float, service_rate: float) -> float:
    if not rate < service_rate:
        raise ValueError(f"puts come at {rate} a second, and the store takes {service_rate}: there is no steady state")
    return rate / service_rate
