"""Stores and servers that answer with objects and texts that do harm when they are looked at."""

from __future__ import annotations

import logging
import traceback
from itertools import count, product
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_replica
from trio_replica import (
    Integrity,
    MemoryStore,
    PutResult,
    Ref,
    ReplicaError,
    RetryingStore,
    Store,
    StoreError,
    reconcile,
    scrub,
)
from trio_replica._errors import describe_failure, shown
from trio_replica._log import log
from trio_replica._printable import SHOWN_LIMIT, one_line, printable
from trio_replica.testing import SimulatedStore

from .common import DATA, REF, PlainStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from trio.testing import MockClock

# Objects


def trap(*_: object) -> Any:
    raise ZeroDivisionError("a trap")


TRAPS = ["bool", "eq", "repr", "str", "len", "iter", "hash", "lt", "gt", "contains", "getitem", "index", "format"]


def trapped(kind: type) -> Any:
    """Return a subclass that raises at everything."""
    return type(f"Trapped{kind.__name__}", (kind,), {f"__{name}__": trap for name in TRAPS})


ANSWERS: dict[str, Any] = {
    "object": trapped(object)(),
    "none": None,
    "list": trapped(list)([REF]),
    "dict": trapped(dict)({REF: DATA}),
    "bytes": trapped(bytes)(DATA),
    "str": trapped(str)("f" * 32),
    "tuple": trapped(tuple)((REF, True)),
    "result": PutResult(REF, trapped(object)()),
    "results": [PutResult(REF, trapped(object)())],
    "ref": PutResult(trapped(bytes)(REF), True),
    "in list": [trapped(object)()],
    "in dict": {REF: trapped(object)()},
    "bytes in dict": {REF: trapped(bytes)(DATA)},
}

OPERATIONS = ["put", "put_many", "get", "get_many", "contains", "list_page", "identity"]


class Hostile(PlainStore):
    """A store that answers one operation with something hostile."""

    def __init__(self, operation: str, answer: Any) -> None:
        super().__init__(MemoryStore())
        self._operation = operation
        self._answer = answer
        setattr(self, operation, self._answers)

    async def _answers(self, *_: object) -> Any:
        await trio.lowlevel.checkpoint()
        return self._answer


async def try_everything(store: Store) -> None:
    for call in (
        lambda: store.put(DATA),
        lambda: store.put_many([DATA]),
        lambda: store.get(REF),
        lambda: store.get_many([REF]),
        lambda: store.contains(REF),
        lambda: store.list_page(Ref.ZERO, 1),
    ):
        await expect_no_trap(call)


async def expect_no_trap(call: Callable[[], Awaitable[Any]]) -> None:
    try:
        answer = await call()
    except (ReplicaError, trio.ClosedResourceError) as error:
        assert "".join(traceback.format_exception(error))
    else:
        assert repr(answer)


OPTIONS: list[dict[str, Any]] = [{}, {"verify": False}, {"repair_reads": True}, {"hedge_delay": 1}]


def hostile_cases() -> Iterator[Any]:
    """Return all cases. Those of the fast gear have each pair of an operation, an answer and options."""
    for operation, answer, options in product(OPERATIONS, ANSWERS, OPTIONS):
        place = OPERATIONS.index(operation) + [*ANSWERS].index(answer)
        is_fast = OPTIONS[place % len(OPTIONS)] is options
        name = f"{operation}-{answer}-{options}"
        yield pytest.param(operation, answer, options, id=name, marks=[] if is_fast else pytest.mark.deep)


@pytest.mark.parametrize(("operation", "answer", "options"), [*hostile_cases()])
async def test_a_hostile_answer_is_a_failure_of_its_store(
    autojump_clock: MockClock, operation: str, answer: str, options: Any
) -> None:
    good = MemoryStore()
    await good.put(DATA)
    hostile = Hostile(operation, ANSWERS[answer])
    arrangements: list[tuple[Any, Any]] = [
        ([hostile, good], []),
        ([RetryingStore(hostile, attempts=2)], []),
        ([good], [hostile]),
    ]
    for sync, async_ in arrangements:

        async def run(sync: Any = sync, async_: Any = async_) -> None:
            async with trio_replica.open(sync, async_, **options) as store:
                await try_everything(store)
                await expect_no_trap(store.flush)
                assert repr(store)

        await expect_no_trap(run)
    if operation != "identity":
        assert (await reconcile([good])).complete
        await expect_no_trap(lambda: reconcile([good, hostile]))


def two_faced(kind: type, content: Any) -> Any:
    """Return an answer of a subclass whose iteration would never end, and which notes whether it is begun."""

    class TwoFaced(kind):  # type: ignore[misc]
        was_asked = False

        def _ask(self, *_: object) -> Any:
            type(self).was_asked = True  # pragma: no cover  (nobody asks)
            return count()  # pragma: no cover  (likewise)

        __iter__ = keys = values = items = __getitem__ = __len__ = _ask

    return TwoFaced(content)


@pytest.mark.parametrize("options", [{}, {"verify": False}], ids=str)
@pytest.mark.parametrize(
    ("operation", "answer", "complaint"),
    [
        ("list_page", two_faced(list, [REF]), "a page is not a list of refs"),
        ("list_page", [two_faced(bytes, REF)], "a page is not a list of refs"),
        ("get_many", two_faced(dict, {REF: DATA}), "which is not a dict of refs and bytes"),
        ("put_many", two_faced(list, [PutResult(REF, True)]), "which is not a list of results"),
        ("put", two_faced(tuple, (REF, True)), "which is not a PutResult"),
        ("put", PutResult(two_faced(bytes, REF), True), "which is not a Ref"),
        ("put", PutResult(REF, 1), "for added, which is True or False"),  # type: ignore[arg-type]
        ("contains", two_faced(int, 1), "not True or False"),
        ("contains", None, "not True or False"),
    ],
)
async def test_an_answer_is_of_a_built_in_type(operation: str, answer: Any, complaint: str, options: Any) -> None:
    store = Hostile(operation, answer)
    async with trio_replica.open([store], **options) as opened:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "list_page": lambda: opened.list_page(Ref.ZERO, 10),
            "get_many": lambda: opened.get_many([REF]),
            "put_many": lambda: opened.put_many([DATA, b"more"][:1]),
            "put": lambda: opened.put(DATA),
            "contains": lambda: opened.contains(REF),
        }
        with pytest.raises(StoreError, match=complaint):
            await calls[operation]()
    if operation in {"list_page", "put"}:
        report = await reconcile({"store": store, "other": await with_data()})
        assert complaint in f"{[*report.failures.values()]} {report.problems}"
    assert not getattr(answer, "was_asked", False)


@pytest.mark.parametrize("answer", [None, 1, two_faced(int, 1)])
async def test_contains_is_true_or_false_for_a_reconcile_and_a_scrub(answer: Any) -> None:
    class Vague(PlainStore):
        async def contains(self, ref: Ref) -> bool:
            await trio.lowlevel.checkpoint()
            vague: bool = answer
            return vague

    stores = {"vague": Vague(await with_data()), "other": await with_data()}
    report = await reconcile(stores)
    assert (report.stores["vague"].unanswered, report.complete) == (1, False)
    assert "not True or False" in report.problems[0].error
    scrubbed = await scrub(stores)
    assert (scrubbed.stores["vague"].unanswered, scrubbed.is_sound) == (1, False)


async def with_data() -> MemoryStore:
    good = MemoryStore()
    await good.put(DATA)
    return good


async def test_a_batch_is_answered_with_a_list() -> None:
    answer = two_faced(list, [])
    with pytest.raises(trio_replica.PoisonedError, match=r"a put_many returned .*, which is not a list of results"):
        async with trio_replica.open([MemoryStore()], {"copy": Hostile("put_many", answer)}) as store:
            await store.put_many([b"1", b"2"])
            await store.wait_poisoned()
    assert not answer.was_asked


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("operation", ["contains", "get_stored", "list_page", "put", "set_aside", "check_integrity"])
async def test_a_hostile_answer_to_a_scrub_is_a_failure_of_its_store(operation: str, answer: str) -> None:
    hostile, good = SimulatedStore(), SimulatedStore()
    for store in (hostile, good):
        await store.put(DATA)
    hostile.corrupt(REF, b"bad")

    async def answers(*_: object) -> Any:
        await trio.lowlevel.checkpoint()
        return ANSWERS[answer]

    setattr(hostile, operation, answers)
    for repair in (False, True):
        report = await scrub({"hostile": hostile, "good": good}, repair=repair)
        assert repr(report)
        assert report.stores["good"].corrupt == 0


@pytest.mark.parametrize(
    "found",
    [Integrity((5,)), Integrity((), ("text",), 1), None],  # type: ignore[arg-type]
)
async def test_a_check_that_returns_something_else_is_a_problem(found: Any) -> None:
    class Odd(SimulatedStore):
        async def check_integrity(self) -> Integrity:
            await trio.lowlevel.checkpoint()
            checked: Integrity = found
            return checked

    report = await scrub({"odd": Odd()})
    (problem,) = report.problems["odd"]
    assert problem.startswith("it could not check itself: ReplicaError: a check_integrity returned ")


@pytest.mark.parametrize("added", [1, None, "yes"])
async def test_added_is_true_or_false(added: Any) -> None:
    async with trio_replica.open([Hostile("put", PutResult(REF, added))]) as store:
        with pytest.raises(StoreError, match=f"a put returned {added!r} for added, which is True or False"):
            await store.put(DATA)


# Texts

FORGED = "disk full\n2026-01-01 00:00:00 INFO all is well\x1b[2J\u202e\u2028\x85\x00\ud800"


def test_a_text_becomes_one_line_that_can_be_printed() -> None:
    line = one_line(FORGED)
    assert line == r"disk full 2026-01-01 00:00:00 INFO all is well\x1b[2J\u202e \x00\ud800"
    assert line.isprintable()
    assert printable("größe") == "größe"


def test_a_long_text_is_cut() -> None:
    line = one_line("x" * 10_000)
    assert len(line) == SHOWN_LIMIT
    assert line.endswith("x…")
    assert len(describe_failure(OSError("y" * 10**7))) < SHOWN_LIMIT + 20


def test_the_text_of_an_answer_is_short() -> None:
    assert shown("a" * 1000) == "'" + "a" * 78 + "…"
    assert shown(ANSWERS["object"]) == "<repr raised ZeroDivisionError>"


def test_a_secret_in_a_long_text_is_not_shown() -> None:
    text = describe_failure(OSError("x" * 100 + " https://me:hunter2@host/ " + "y" * 10**6))
    assert "hunter2" not in text
    assert "me:***@host" in text


async def test_no_message_of_a_store_forges_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Forging(PlainStore):
        async def put(self, blob: object) -> PutResult:
            await trio.lowlevel.checkpoint()
            raise OSError(FORGED)

    async with trio_replica.open([Forging(MemoryStore())]) as store:
        with pytest.raises(StoreError) as caught:
            await store.put(DATA)
    assert str(caught.value).isprintable()
    with pytest.raises(trio_replica.PoisonedError) as poisoned:
        async with trio_replica.open([MemoryStore()], [Forging(MemoryStore())]) as store:
            await store.put(DATA)
            await store.wait_poisoned()
    assert str(poisoned.value).isprintable()
    record = caplog.records[0]
    formatted = logging.Formatter("%(levelname)s %(message)s").format(record)
    assert not [line for line in formatted.splitlines() if line.startswith("2026")]
    assert all(line.isprintable() for line in formatted.splitlines())
    assert "raise OSError(FORGED)" in formatted, "the traceback is still there"


def test_a_line_of_the_log_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log(logging.WARNING, "a\nb\x1b[1m")
    assert caplog.messages == [r"a\nb\x1b[1m"]
