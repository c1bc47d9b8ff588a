"""The ordered union of pages, and the check of each page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_replica import Ref, ReplicaError
from trio_replica._sync.union import check_page, union


def refs(*numbers: int) -> list[Ref]:
    return [Ref(number.to_bytes(32, "big")) for number in numbers]


def listed(stores: list[list[Ref]], after: Ref, sizes: list[int]) -> list[Ref]:
    """List the union of `stores`, which answer in turn with pages of `sizes`, page by page to the end."""
    shown: list[Ref] = []
    turn = 0
    while True:
        pages = []
        for store in stores:
            size = sizes[turn % len(sizes)]
            pages.append(check_page([ref for ref in store if ref > after][:size], after, size))
            turn += 1
        page = union(pages)
        assert bool(page) == any(pages)
        if not page:
            return shown
        shown += page
        after = page[-1]


# Few and small numbers, so that stores overlap in every way; and the greatest ref, which has none after it.
SOME_REFS = st.sets(st.sampled_from([*range(1, 30), 2**256 - 1])).map(lambda numbers: refs(*sorted(numbers)))


@given(
    stores=st.lists(SOME_REFS, max_size=5),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=7),
    after=st.integers(0, 31),
)
def test_pages_of_the_union_list_the_union(stores: list[list[Ref]], sizes: list[int], after: int) -> None:
    (first,) = refs(after)
    everything = sorted({ref for store in stores for ref in store if ref > first})
    assert listed(stores, first, sizes) == everything


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ([], []),
        ([[]], []),
        ([[], []], []),
        ([[1, 2, 5]], [1, 2, 5]),
        ([[1, 2, 5], []], [1, 2, 5]),
        ([[1, 2, 5], [2]], [1, 2]),
        ([[1, 2, 3, 4, 5, 6, 7, 8, 9], [2]], [1, 2]),
        ([[1, 2], [3, 4]], [1, 2]),
        ([[1, 4], [2, 3], [5]], [1, 2, 3]),
        ([[1, 2], [1, 2]], [1, 2]),
        ([[2], [1, 2, 3], []], [1, 2]),
    ],
)
def test_union_ends_at_the_lowest_last_ref(pages: list[list[int]], expected: list[int]) -> None:
    assert union([refs(*page) for page in pages]) == refs(*expected)


@pytest.mark.parametrize("page", [[], [6], [6, 7, 9]])
def test_a_good_page_is_returned(page: list[int]) -> None:
    (after,) = refs(5)
    good = refs(*page)
    assert check_page(good, after, 3) is good


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        (None, "a page is not a list of refs"),
        (tuple(refs(6)), "a page is not a list of refs"),
        (iter(refs(6)), "a page is not a list of refs"),
        ([bytes(32)], "a page is not a list of refs"),
        ([*refs(6), None], "a page is not a list of refs"),
        ([*refs(6), str(Ref.ZERO)], "a page is not a list of refs"),
        (refs(6, 7, 8, 9), "a page of 4 refs where at most 3 were asked for"),
        (refs(5), "a page begins with 000000000000, which is not after 000000000000"),
        (refs(5, 6), "a page begins with 000000000000, which is not after 000000000000"),
        (refs(2**255, 6), "a page whose refs are not in ascending order"),
        (refs(6, 6), "a page whose refs are not in ascending order"),
        (refs(6, 8, 7), "a page whose refs are not in ascending order"),
        (refs(6, 7, 4), "a page whose refs are not in ascending order"),
    ],
)
def test_a_page_that_breaks_the_promise(page: list[Ref], complaint: str) -> None:
    (after,) = refs(5)
    with pytest.raises(ReplicaError) as caught:
        check_page(page, after, 3)
    assert str(caught.value) == complaint


def test_a_page_before_the_ref_is_named() -> None:
    with pytest.raises(ReplicaError, match=r"^a page begins with 100000000000, which is not after 200000000000$"):
        check_page([Ref.from_hex("1" + 63 * "0")], Ref.from_hex("2" + 63 * "0"), 10)
