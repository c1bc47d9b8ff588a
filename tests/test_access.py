"""How a store is opened: the options that all openers have."""

from __future__ import annotations

from typing import Any

import pytest

from trio_replica import BlobTooLargeError, StoreReadOnlyError
from trio_replica.stores._access import Access


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"create": 1}, TypeError, "create is True or False, not 1"),
        ({"read_only": "yes"}, TypeError, "read_only is True or False, not 'yes'"),
        ({"max_memory": 1e9}, TypeError, "max_memory is an int, not 1000000000.0"),
        ({"max_memory": True}, TypeError, "max_memory is an int, not True"),
        ({"max_memory": 0}, ValueError, "max_memory is at least 1 byte, not 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Access(**options)


@pytest.mark.parametrize(("create", "read_only"), [(True, False), (True, True), (False, False), (False, True)])
def test_nothing_is_created_where_it_is_not_allowed(create: bool, read_only: bool) -> None:
    assert Access(create=create, read_only=read_only).may_create is (create and not read_only)


def test_a_store_that_is_only_read_refuses_writes() -> None:
    Access().check_writable("a.db")
    with pytest.raises(StoreReadOnlyError, match=r"a\.db: "):
        Access(read_only=True).check_writable("a.db")


def test_a_blob_over_the_limit_is_refused() -> None:
    access = Access(max_memory=10)
    access.check_size("a.db", 10)
    with pytest.raises(BlobTooLargeError, match=r"a\.db: a blob has 11 bytes, but max_memory is 10"):
        access.check_size("a.db", 11)
