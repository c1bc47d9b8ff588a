"""The introduction of the page: the question, and how to read the charts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from ..model.scenarios import Burst, Producers, Scenario, Stalled, Steady

if TYPE_CHECKING:
    from collections.abc import Mapping

QUESTION: Final = """
A put that finds the queue of an async store full waits until there is room. A larger queue makes fewer puts wait, and
them less long; the price is memory, and what that store lacks if the process is killed. This page shows how much of
each, for queues of 1 to up to 4096 blobs, each twice as large as the one before.
"""

READING: Final = """
Three charts stand side by side and share the axis of the queue's size: how many of the puts wait; the p99 wait, which
is as long as 1 put in 100 waits or longer; and how many accepted blobs the store lacks if the process is
killed at a random moment of the time that is looked at, on average and at worst. λ is the rate at which puts come, μ
the rate at which a store takes them one by one, ρ = λ/μ the load, cv the standard deviation of the service times
divided by their mean. Times are in mean service times of the store, 1/μ: if it takes 20 ms for a put, 50 are a second.
The axes are logarithmic; where a figure is 0, the axis goes on to 0. A share of 0 means that none of N puts waited: if
they were independent, the true share would be less than 3/N with a confidence of 95 %; waits come in clusters, so it is
less sure.
"""

SCENARIOS: Final[Mapping[type[Scenario], str]] = {
    Steady: "Puts come independently of each other, as a Poisson process, at a steady rate.",
    Burst: "Some puts come faster than the store takes them, and then no more.",
    Stalled: "The store stops answering for some time T. Shown are the puts that come until it has caught up.",
    Producers: "Some tasks put one blob after another, each after a pause or at once.",
}

CURVE: Final = '<path d="M2 12H49" stroke-width="2"/><path d="M25.5 9l3 3-3 3-3-3z" fill="currentColor"/>'
BAND: Final = '<path d="M2 4L49 8V17L2 19Z" fill="currentColor" fill-opacity="0.25" stroke="none"/>'
DASHED: Final = '<path d="M2 12H49" stroke-width="1.6" stroke-dasharray="6 4"/>'
DOTTED: Final = '<path d="M2 12H49" stroke-width="1.2" stroke-dasharray="1.5 2.5"/>'
DOT_AND_RING: Final = (
    '<circle cx="25.5" cy="12" r="2.6" fill="currentColor"/><circle cx="25.5" cy="12" r="6" stroke-width="1.4"/>'
)

KEY: Final = {
    CURVE: "The recursion R: the mean over the seeds; for the p99 wait, the median.",
    BAND: "The quartiles of the seeds: half of the runs are within the band.",
    DASHED: "Theory, where a formula is known; for bursts, overload and stalls it is that of even times.",
    DOT_AND_RING: """
        Dot: a run of the real code in virtual time. Ring: R on the very times of that run. They coincide if the two
        agree. The run is shorter than those of the curve, so both may lie beside it.""",
    DOTTED: "The worst loss of all seeds.",
}


def key() -> str:
    """Return the list of what is drawn and what it means."""
    lines = "".join(
        f'<dt><svg viewBox="0 0 51 24" aria-hidden="true" fill="none" stroke="currentColor">{drawn}</svg></dt>'
        f"<dd>{escape(meaning)}</dd>"
        for drawn, meaning in KEY.items()
    )
    return f'<dl class="key">{lines}</dl>'
