"""Drawing what a session is to be: the options of its replica, the weather, and how it ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .outbox import OutboxWeather
from .weather import Weather

if TYPE_CHECKING:
    import random

    from .trace import Trace

PACES: Final = (0.0, 0.001, 0.01, 0.01, 0.1, 1.0)
"""Seconds that a step of a store takes: some stores are a thousand times slower than others."""

PAGE_SIZES: Final = (1, 2, 5, 1000)

TROUBLES: Final = ("errors", "hangs", "garbles", "outage")


@dataclass(frozen=True)
class Plan:
    """The course of a session, except for the operations of its clients."""

    options: dict[str, Any]
    """Of `trio_replica.open`."""
    clients: int
    operations: int
    """How many each client does."""
    is_started: bool
    """Whether calls of the sync stores are started without a task for each."""
    is_inside: bool
    """Whether the block waits for its clients; else it ends while they go on."""
    seconds: float
    """How long the block lasts that does not wait."""
    ending: str
    """``"leave"``, ``"raise"`` or ``"cancel"``."""
    crash: str | None
    """``"kill"`` or ``"power cut"``."""
    crash_after: int
    """The number of the put soon after whose return it comes; 0 if it is among the steps."""
    steps: dict[int, str]
    """The event that happens just before a step, by the number of the step."""


def draw_plan(draw: random.Random, async_names: list[str], *, outbox: bool) -> Plan:
    """Draw the plan of a session whose async stores have some names."""
    options: dict[str, Any] = {
        "queue_size": draw.randint(1, 4),
        "batch_size": draw.choice([None, None, 1, 2, 3]),
        "grace": draw.choice([0.0, 0.0, 0.02, 1.0, math.inf]),
        "hedge_delay": draw.choice([0.0, 0.0, 0.005, 0.5, math.inf]),
        "verify": draw.random() < 0.9,
        "fallback": [name for name in async_names if draw.random() < 0.2],
        "repair_reads": draw.random() < 0.4,
    }
    if outbox:
        options["outbox"] = "/outbox"
    steps = {draw_step(draw): "arrive"}
    for _ in range(draw.choice([0, 1, 3, 8])):
        steps[draw_step(draw)] = draw.choice(["cancel", "cancel", "rot"])
    if async_names and draw.random() < 0.15:
        steps[draw_step(draw)] = "poison"
    if draw.random() < 0.15:
        steps[draw_step(draw)] = "interrupt"
    crash = draw.choice([None, None, "kill", "power cut"])
    crash_after = 0
    if crash is not None and draw.random() < 0.5:
        crash_after = draw.randint(1, 6)
    elif crash is not None:
        steps[draw_step(draw)] = crash
    return Plan(
        options=options,
        clients=draw.randint(1, 4),
        operations=draw.randint(2, 12),
        is_started=draw.random() < 0.4,
        is_inside=draw.random() < 0.6,
        seconds=draw.choice(PACES) * 10 * draw.random(),
        ending=draw.choice(["leave", "leave", "leave", "raise", "cancel"]),
        crash=crash,
        crash_after=crash_after,
        steps=steps,
    )


def last_plan(*, outbox: bool) -> Plan:
    """Return the plan of a session that does nothing but deliver what is pending."""
    options: dict[str, Any] = {"queue_size": 3, "batch_size": None, "fallback": []}
    if outbox:
        options["outbox"] = "/outbox"
    return Plan(
        options,
        0,
        0,
        is_started=False,
        is_inside=True,
        seconds=0.0,
        ending="leave",
        crash=None,
        crash_after=0,
        steps={},
    )


def draw_step(draw: random.Random) -> int:
    """Draw the number of a step: early ones as often as late ones, by their order of magnitude."""
    return int(10 ** (0.7 + 2.1 * draw.random()))


def fair_weather(draw: random.Random, trace: Trace, name: str) -> Weather:
    """Return the weather of a store that always works."""
    return Weather(draw, trace, name, pace=0.001)


def draw_weather(draw: random.Random, trace: Trace, name: str, healthy: float) -> Weather:
    """Draw the weather of a store, in which nothing goes wrong with the probability `healthy`."""
    troubles = () if draw.random() < healthy else draw.sample(TROUBLES, k=draw.choice([1, 1, 2]))
    begin = draw.choice(PACES) * 3 * draw.random()
    return Weather(
        draw,
        trace,
        name,
        pace=draw.choice(PACES),
        error_rate=draw.choice([0.02, 0.1, 0.5]) if "errors" in troubles else 0.0,
        hang_rate=draw.choice([0.02, 0.1]) if "hangs" in troubles else 0.0,
        garble_rate=draw.choice([0.1, 0.5]) if "garbles" in troubles else 0.0,
        outage=(begin, begin + draw.choice([0.01, 1.0, 30.0])) if "outage" in troubles else None,
        outage_holds=draw.random() < 0.5,
        page_size=draw.choice(PAGE_SIZES),
        is_shielded=draw.random() < 0.3,
    )


def draw_outbox_weather(draw: random.Random, trace: Trace) -> OutboxWeather:
    """Draw the weather of the disk of an outbox."""
    error_rate = draw.choice([0.0, 0.0, 0.0, 0.05, 0.3])
    return OutboxWeather(draw, trace, draw.choice(PACES), error_rate, uncommitted_limit=draw.choice([2, 5, 10_000]))
