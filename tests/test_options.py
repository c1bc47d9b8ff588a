"""The one list of the options of a replica, and what is made of it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, Union, Unpack, get_type_hints

import pytest

import trio_replica as replica
from trio_replica import MemoryStore, ReplicaOptions
from trio_replica._options import OPTIONS, TYPES, Options
from trio_replica._urls.kinds import kinds_of

DOORS: list[Callable[..., Any]] = [replica.open, replica.open_urls]


def test_an_object_of_options_has_them_all() -> None:
    assert [field.name for field in fields(Options)] == list(OPTIONS)
    options = Options(queue_size=5, fallback=iter(["far"]))
    assert (options.queue_size, options.grace, options.fallback) == (5, 0.0, ("far",))
    assert options == Options(fallback=["far"], queue_size=5)
    assert replace(options, grace=2).grace == 2
    with pytest.raises(FrozenInstanceError):
        vars(Options)["__setattr__"](options, "grace", 5)


def test_an_object_of_options_is_checked_however_it_is_made() -> None:
    bad: dict[str, Any] = {"grace": -1}
    for make in (Options, lambda **given: Options.of("open", given), lambda **given: replace(Options(), **given)):
        with pytest.raises(ValueError, match=r"^grace is 0 or more seconds, not -1$"):
            make(**bad)


@pytest.mark.parametrize("door", DOORS)
def test_a_door_shows_its_options(door: Callable[..., Any]) -> None:
    parameters = inspect.signature(door).parameters.values()
    shown = {one.name: (one.annotation, one.default) for one in parameters if one.kind is one.KEYWORD_ONLY}
    assert shown == {name: (TYPES[name], OPTIONS[name].default) for name in OPTIONS}
    assert not [one for one in parameters if one.kind is one.VAR_KEYWORD]
    assert get_type_hints(door)["options"] == Unpack[ReplicaOptions]


@pytest.mark.parametrize("door", DOORS)
def test_a_door_documents_its_options(door: Callable[..., Any]) -> None:
    said = inspect.getdoc(door) or ""
    assert all(len(line) <= 120 for line in said.splitlines())
    text = " ".join(said.split())
    for name, option in OPTIONS.items():
        assert f" {name}: {option.text[0].lower()}{option.text[1:]} " in text
    assert "ReplicaOptions" not in text


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("queue_sise", "got an unexpected keyword argument 'queue_sise'; did you mean queue_size?"),
        ("verfy", "got an unexpected keyword argument 'verfy'; did you mean verify?"),
        (
            "x",
            "got an unexpected keyword argument 'x'; the options are " + ", ".join(OPTIONS),
        ),
    ],
)
def test_an_option_that_is_misspelt(given: str, error: str) -> None:
    misspelt: Any = {given: 1}
    with pytest.raises(TypeError) as caught:
        replica.open([MemoryStore()], **misspelt)
    assert str(caught.value) == f"open() {error}"
    with pytest.raises(TypeError) as caught:
        replica.open_urls(["memory:"], **misspelt)
    assert str(caught.value) == f"open_urls() {error}"


@pytest.mark.parametrize("name", ["verify", "repair_reads"])
@pytest.mark.parametrize("value", ["false", 1, None])
def test_a_flag_of_a_wrong_type(name: str, value: object) -> None:
    options: Any = {name: value}
    with pytest.raises(TypeError, match=rf"^{name} is True or False, not {value!r}$"):
        replica.open([MemoryStore()], **options)


def test_a_path_that_a_shell_would_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for path in ("~/outbox.db", "~"):
        with pytest.raises(ValueError) as caught:
            Options(outbox=path)
        home = path.replace("~", "/home/me")
        assert str(caught.value) == (
            f"outbox is {path!r}, but ~ is not replaced here: write {home!r}, or the path of a folder ~"
        )
    for path in ("./~/outbox.db", "~nobody-has-this-name", "a~"):
        assert Options(outbox=path).outbox == path


@pytest.mark.parametrize(
    ("hint", "kinds"),
    [
        (bool, (bool,)),
        (int, (int,)),
        (float, (float, int)),
        (str, (str,)),
        (int | None, (int,)),
        (str | os.PathLike[str] | None, (str,)),
        (Union[str, bool], (str, bool)),  # noqa: UP007  (as older modules write it)
        (Iterable[str], (list,)),
        (list[int], (list,)),
        (Callable[[], int], ()),
        (Mapping[str, Sequence[int]], ()),
        (Any, ()),
    ],
)
def test_what_a_file_may_have_for_a_type(hint: Any, kinds: tuple[type, ...]) -> None:
    assert kinds_of(hint) == kinds


def test_every_option_can_be_given_in_a_file() -> None:
    assert all(kinds_of(hint) for hint in TYPES.values())
