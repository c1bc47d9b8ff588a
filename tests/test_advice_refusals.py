"""Workloads that no queue suits, with remedies that work, and input that the advice on queue sizes refuses."""

from __future__ import annotations

import math
import pickle
import re
from typing import Any, Final

import pytest

from trio_replica import NoQueueSizeError, QueueAdvice, recommend_queue_size

ROOMY: Final[dict[str, Any]] = {"blob_size": 1000, "memory": 10**12, "callers": 3}


def advice(**changed: Any) -> QueueAdvice:
    return recommend_queue_size(**{"rate": 90.0, "service_time": 0.01, **ROOMY, **changed})


def test_a_refusal_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(NoQueueSizeError("too much", "less would do")))
    assert (str(error), error.remedy) == ("no queue will do: too much; less would do", "less would do")


REFUSED: Final[list[Any]] = [
    {"rate": 100},
    {"rate": 120.5},
    {"rate": 99.99999},
    pytest.param({"rate": 100, "service_cv": 2, "stall": 5, "burst": 100}, marks=pytest.mark.deep),
    pytest.param({"rate": 600, "batch_cost": (0.02, 0.002)}, marks=pytest.mark.deep),
    {"rate": 600, "batch_cost": (0.02, 0.002), "memory": 20_000},
    {"rate": 120, "memory": 10_000},
    {"rate": 10, "service_time": 0.5, "batch_cost": (1e9, 0)},
    {"memory": 46_999},
    {"memory": 46_999, "blob_size": 1000.5},
    {"memory": 3_000},
    {"memory": 5_000},
    {"memory": 10},
    pytest.param({"memory": 100_000, "burst": 500, "burst_rate": 1000}, marks=pytest.mark.deep),
    {"memory": 10_000, "batch_cost": (0.02, 0.002)},
    {"rate": 120, "memory": 40_000, "burst": 100, "service_cv": 0.5},
]

REMEDIES: Final = {
    "rate": r"([\d.e+-]+) puts a second",
    "service_time": r"a service_time of ([\d.e+-]+) s",
    "memory": r"(\d+) bytes of memory",
    "blob_size": r"blobs of (\d+) bytes",
    "wait_share": r"a wait_share of ([\d.e+-]+)",
}


@pytest.mark.parametrize("asked", REFUSED)
def test_what_is_refused_has_remedies_that_work(asked: dict[str, Any]) -> None:
    with pytest.raises(NoQueueSizeError) as caught:
        advice(**asked)
    remedy = caught.value.remedy
    assert str(caught.value).startswith("no queue will do: ")
    assert str(caught.value).endswith(f"; {remedy}")
    assert "\n" not in str(caught.value)
    assert remedy.endswith(" would do")
    for one in remedy.removesuffix(" would do").split(" or "):
        changes = {}
        for part in one.split(" and "):
            ((name, number),) = [
                (name, found[1]) for name, form in REMEDIES.items() if (found := re.fullmatch(form, part))
            ]
            changes[name] = float(number)
        advised = advice(**{**asked, **changes})
        assert advised.wait_share <= changes.get("wait_share", 0.01)


WRONG: Final[list[tuple[str, Any, str]]] = [
    *(
        (name, value, f"{name} must be more than 0 {unit} and finite, not {value}")
        for name, unit in {
            "rate": "puts a second",
            "service_time": "seconds",
            "burst_rate": "puts a second",
            "blob_size": "bytes",
            "memory": "bytes",
        }.items()
        for value in (0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf, 10**400)
    ),
    *(
        (name, value, f"{name} must be at least {bounds}, not {value}")
        for name, bounds, wrong in (
            ("service_cv", "0 times the mean and at most 100", (101,)),
            ("stall", "0 seconds and at most 1.11111e+07", (1e8,)),  # 1e9 blobs
            ("margin", "1 times the queue and at most 10000", (0, 0.99, 10_001)),
        )
        for value in (*wrong, -1, math.nan, math.inf)
    ),
    *(
        (name, value, f"{name} must be at least 1 and at most 1000000000 {unit}, not {value}")
        for name, unit in {"burst": "blobs", "callers": "tasks"}.items()
        for value in (0, -3, 10**9 + 1)
    ),
    *(
        ("wait_share", value, f"wait_share must be at least 1e-09 and less than 1, not {value}")
        for value in (0, 1, 1.5, -0.1, 1e-10, math.nan, math.inf)
    ),
    ("batch_cost", (0, 0), "batch_cost must not be 0 both for a batch and for each blob in it"),
    ("batch_cost", (-1, 1), "batch_cost[0] must be at least 0 seconds and finite, not -1"),
    ("batch_cost", (1, math.nan), "batch_cost[1] must be at least 0 seconds and finite, not nan"),
]


@pytest.mark.parametrize(("name", "value", "complaint"), WRONG)
def test_numbers_out_of_their_bounds(name: str, value: Any, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        advice(**{**({"burst": 5} if name == "burst_rate" else {}), name: value})
    assert type(caught.value) is ValueError
    assert str(caught.value) == complaint


def test_a_burst_rate_without_a_burst() -> None:
    with pytest.raises(ValueError, match=r"^burst_rate needs a burst: say how many blobs arrive at that rate$"):
        advice(burst_rate=5)


@pytest.mark.parametrize("wrong", ["90", True, None, [1], 1j])
@pytest.mark.parametrize(
    "name",
    ["rate", "service_time", "service_cv", "stall", "blob_size", "memory", "callers", "wait_share", "margin", "burst"],
)
def test_what_is_no_number(name: str, wrong: Any) -> None:
    if name == "burst" and wrong is None:
        return
    with pytest.raises(TypeError, match=f"^{name} must be an? (int, a )?number of .*, not {re.escape(repr(wrong))}$"):
        advice(**{name: wrong})


@pytest.mark.parametrize("name", ["callers", "burst"])
def test_a_number_of_things_is_whole(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be an int, a number of [a-z]+, not 2.0$"):
        advice(**{name: 2.0})


@pytest.mark.parametrize("wrong", [0.1, (0.1,), (0.1, 0.2, 0.3), "ab", {"fixed": 1, "each": 2}])
def test_a_batch_cost_that_is_no_pair(wrong: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^batch_cost must be a pair of seconds, for a batch and for each blob in it, not "
    ):
        advice(batch_cost=wrong)


def test_a_batch_cost_of_something_else() -> None:
    with pytest.raises(TypeError, match=r"^batch_cost\[1\] must be a number of seconds, not '2'$"):
        advice(batch_cost=(1, "2"))


def test_memory_that_is_exactly_enough() -> None:
    needed = advice().memory_bytes
    assert advice(memory=needed) == advice()
    with pytest.raises(NoQueueSizeError) as caught:
        advice(memory=needed - 1)
    assert str(caught.value) == (
        "no queue will do: a queue of 43, batches of 1 and 3 callers hold 47000 bytes, and there are 46999; "
        "47000 bytes of memory or blobs of 999 bytes or a wait_share of 0.02 would do"
    )


def test_blobs_of_a_mean_size_that_is_not_whole() -> None:
    assert advice(blob_size=0.5).memory_bytes == 24
