"""The one list of a replica's options, and the frozen `Options` that is built from it."""

# This module has no postponed annotations, because those of the list are read at run time.
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass
from inspect import Parameter, signature
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    final,
    get_type_hints,
)

from ._checks import check_flag, check_seconds, check_size, checked_names, checked_path, did_you_mean

AnyT = TypeVar("AnyT")

LINE: Final = 120
"""The width of a docstring in columns."""


@final
@dataclass(frozen=True, slots=True)
class Option:
    """The properties of an option beside its name and type."""

    default: Any
    check: Callable[[str, Any], Any]
    """A function of the name and a value. It returns the value to keep, or raises `TypeError` or `ValueError`."""
    text: str
    """The description. Its first sentence stands alone in the example of a file and in the help of a command."""
    example: str
    """An example value, as written in a file."""
    flag: str = ""
    """The name of the value in the help of a command. Empty if commands have no such option."""
    is_for_reading: bool = False
    """Whether a command that only reads uses it."""

    @property
    def summary(self) -> str:
        """The first sentence of the text."""
        return self.text.partition(". ")[0].removesuffix(".")


def _or_none(check: Callable[[str, AnyT], AnyT]) -> Callable[[str, AnyT | None], AnyT | None]:
    return lambda name, value: None if value is None else check(name, value)


class ReplicaOptions(TypedDict, total=False):
    """The options of `open`, `open_urls` and a configuration file.

    A function that passes options on declares them with ``**options: Unpack[ReplicaOptions]``. This is the only list of
    options. Signatures, checks, files, commands and documentation are generated from it.
    """

    queue_size: Annotated[
        int,
        Option(
            default=10,
            check=check_size,
            text="The number of blobs that wait for one async store before a put waits for room.",
            example="64",
            flag="N",
        ),
    ]
    batch_size: Annotated[
        int | None,
        Option(
            default=None,
            check=_or_none(check_size),
            text="The most blobs that a worker writes with one `Store.put_many`. None means `queue_size`, and 1 a "
            "`Store.put` for each.",
            example="16",
        ),
    ]
    grace: Annotated[
        float,
        Option(
            default=0.0,
            check=check_seconds,
            text="The seconds that the workers and the reads under way get when the block is cancelled. `math.inf` "
            "sets no limit.",
            example="5",
        ),
    ]
    hedge_delay: Annotated[
        float,
        Option(
            default=0.0,
            check=check_seconds,
            text="The seconds after which a get also asks the next sync store, in the order of the sync stores. 0 asks "
            "all at once. When a store fails or misses, the get asks the next one immediately. `math.inf` asks one "
            "after another.",
            example="0.05",
            is_for_reading=True,
        ),
    ]
    verify: Annotated[
        bool,
        Option(
            default=True,
            check=check_flag,
            text="Whether a get checks the bytes that a store returns against the ref.",
            example="true",
            is_for_reading=True,
        ),
    ]
    outbox: Annotated[
        str | os.PathLike[str] | None,
        Option(
            default=None,
            check=_or_none(checked_path),
            text="A file that keeps what is pending for the async stores, so that a crash forgets nothing and a put "
            "never waits for room. The async stores need names, because entries are kept by name. The outbox also "
            "knows them, and sync stores that have names, by their identities. A put returns when its entries are on "
            "the disk as well. Blobs that a crash, a failed store or a cut exit leaves are delivered when the outbox "
            "is opened the next time. Only one replica at a time can use the file. It is created if necessary, in an "
            "existing folder on a local file system.",
            example='"trio-replica-outbox.db"',
            flag="FILE",
        ),
    ]
    fallback: Annotated[
        Iterable[str],
        Option(
            default=(),
            check=checked_names,
            text="The names of async stores that a get also asks when no sync store has given the blob. So do "
            "`ReplicaStore.get_many` and `ReplicaStore.contains`. These stores are asked in the same way as the sync "
            "stores. This helps if a disk is lost, or if a sync store is a cache in front of a slow store. Failures of "
            "these reads do not poison the replica. A blob that waits in the queue of such a store is not there yet. "
            "Listings still cover only the sync stores.",
            example='["copy"]',
        ),
    ]
    repair_reads: Annotated[
        bool,
        Option(
            default=False,
            check=check_flag,
            text="Whether a get writes the blob that it has found to the sync stores that lacked it or had a corrupt "
            "copy. It uses `Store.put` in the first case and `DeletableStore.replace` in the second. It does so in the "
            "background, so it neither delays a get nor fails it. A repair that would make more than 64 blobs or "
            "16 MiB at once for one store is left to a later get. Each store is given each blob once in a session; "
            "the last 10,000 refs are remembered. Failed repairs are counted, and the first one is logged. When the "
            "block ends, repairs that have not begun are dropped. Those under way have 5 seconds, but no more than "
            "`grace` if the block was cancelled.",
            example="true",
        ),
    ]


_HINTS: Final = get_type_hints(ReplicaOptions, include_extras=True)

TYPES: Final[dict[str, Any]] = {name: hint.__origin__ for name, hint in _HINTS.items()}
"""The type of each option by its name."""

OPTIONS: Final[dict[str, Option]] = {name: hint.__metadata__[0] for name, hint in _HINTS.items()}
"""The other properties of each option by its name."""


def _with_fields(kind: type[AnyT]) -> type[AnyT]:
    """Make a frozen dataclass that has a field for each option."""
    kind.__annotations__ = dict(TYPES)
    for name, option in OPTIONS.items():
        setattr(kind, name, option.default)
    return dataclass(frozen=True, kw_only=True)(kind)


@final
@_with_fields
class Options:
    """The checked options of one replica, with an attribute for each option in `ReplicaOptions`."""

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

        def __init__(self, **options: Unpack[ReplicaOptions]) -> None: ...

        # The fields are made from the list at run time, so type checkers cannot know their names.
        def __getattr__(self, name: str) -> Any: ...

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            object.__setattr__(self, name, option.check(name, getattr(self, name)))

    @classmethod
    def of(cls, door: str, given: Mapping[str, Any]) -> "Options":
        """Return the options that were given to a function as keyword arguments.

        Args:
          door: the name of the function.
          given: the arguments.

        Raises:
          TypeError: if there is no such option, or its value has the wrong type.
          ValueError: if a value is bad.

        """
        for name in given:
            if name not in OPTIONS:
                hint = did_you_mean(name, OPTIONS) or f"; the options are {', '.join(OPTIONS)}"
                raise TypeError(f"{door}() got an unexpected keyword argument {name!r}{hint}")
        return cls(**cast("ReplicaOptions", given))


def with_options(door: AnyT) -> AnyT:
    """Add the signature and the documentation of each option to a function that takes ``**options``."""
    function = cast("Any", door)
    own = signature(function)
    parameters = [one for one in own.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
    parameters += [
        Parameter(name, Parameter.KEYWORD_ONLY, default=option.default, annotation=TYPES[name])
        for name, option in OPTIONS.items()
    ]
    function.__signature__ = own.replace(parameters=parameters)
    before, _, after = (function.__doc__ or "").partition("options: see `ReplicaOptions`.\n")
    indent = before.rpartition("\n")[2]  # from Python 3.13 on, docstrings lose the code's indentation
    described = "".join(_described(name, option, indent) for name, option in OPTIONS.items())
    function.__doc__ = before.removesuffix(indent) + described + after
    return door


def _described(name: str, option: Option, indent: str) -> str:
    text = f"{name}: {option.text[0].lower()}{option.text[1:]}"
    return textwrap.fill(text, LINE, initial_indent=indent, subsequent_indent=f"{indent}  ") + "\n"
