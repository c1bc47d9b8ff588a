"""Tools for people who write stores, and for tests of programs that use replicas.

`StoreContract` is the test suite that every store passes. `SimulatedStore` is a store on Trio's clock with the times,
failures and outages that a test gives it. Under `trio.testing.MockClock` hours take no time, and times are exact.
`LyingStore` makes the answers of any store contradict each other.
"""

from .._public import publish
from ._contract import StoreContract
from ._lying import Lie, LyingStore
from ._simulated import (
    Batched,
    Concurrent,
    Distribution,
    Exponential,
    LogNormal,
    PutManyCost,
    Serial,
    SimulatedCall,
    SimulatedStore,
)

__all__ = [
    "Batched",
    "Concurrent",
    "Distribution",
    "Exponential",
    "Lie",
    "LogNormal",
    "LyingStore",
    "PutManyCost",
    "Serial",
    "SimulatedCall",
    "SimulatedStore",
    "StoreContract",
]

publish(__name__, {name: globals()[name] for name in __all__})
del publish
