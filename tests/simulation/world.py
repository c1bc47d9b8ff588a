"""A world drawn from one seed: stores that outlive sessions and crashes, and the sessions, one after another."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final
from unittest import mock

from trio._core import _run

from trio_replica import reconcile, scrub

from .disks import Bucket, Folder
from .drawing import draw_outbox_weather, draw_plan, draw_step, draw_weather, fair_weather, last_plan
from .ledger import Ledger
from .liars import Upkeep
from .observer import Observer
from .outbox import DatabaseFile, OutboxWeather
from .session import Session
from .stores import LocalStore, RemoteStore
from .trace import Trace, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_replica import Ref

    from .disks import Media
    from .stores import DrawnStore
    from .weather import Weather


@dataclass
class Surroundings:
    """The stores of one session, with their weather."""

    draw: random.Random
    sync_stores: dict[str, DrawnStore]
    async_stores: dict[str, DrawnStore]
    outbox_weather: OutboxWeather


@final
class World:
    """All that one seed draws."""

    def __init__(self, seed: int) -> None:
        self.trace = Trace()
        self.begun: Counter[Ref] = Counter()
        """How many puts of each blob have begun."""
        self._seed = seed
        self._draw = draw = random.Random(seed)
        self._order = random.Random(f"{seed} order")
        self.pool = draw.choice([2, 6, 24])
        """How many different blobs the clients know."""
        sync_media = {f"sync-{number}": draw_media(draw) for number in range(draw.choice([1, 2, 2, 3]))}
        async_media = {f"async-{number}": draw_media(draw) for number in range(draw.choice([0, 1, 1, 1, 2, 2, 2]))}
        self.ledger = Ledger(sync_media, async_media)
        self.outbox = DatabaseFile() if async_media and draw.random() < 0.7 else None

    def run(self) -> None:
        """Run everything.

        Raises:
          Violation: if a promise was broken.

        """
        with mock.patch.object(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True):
            for number in range(self._draw.choice([1, 2, 2, 3])):
                draw = self._begin(number)
                self._lose_store(self._draw, 0.35)
                if number and draw.random() < 0.25:
                    self._reconcile(draw)
                else:
                    plan = draw_plan(draw, list(self.ledger.async_media), outbox=self.outbox is not None)
                    Session(self, plan, self._any_weather(draw)).run()
            self._open_in_vain()
            self._recover()
            self._maintain_liars()

    # Events that befall the stores

    def arrive(self) -> Iterator[tuple[str, list[Ref]]]:
        """Let arrive what is late, and return what has come to which store."""
        for name, media in (self.ledger.sync_media | self.ledger.async_media).items():
            if isinstance(media, Bucket) and media.late:
                yield name, media.arrive()

    def crash(self, draw: random.Random, *, power_cut: bool) -> None:
        """Keep only what a crash leaves at this moment. Tasks that still run work on stores that are gone."""
        for media in (self.ledger.sync_media, self.ledger.async_media):
            media.update({name: one.left(draw, power_cut=power_cut) for name, one in media.items()})
        if self.outbox is not None:
            self.outbox = self.outbox.left(draw, power_cut=power_cut)
        self.trace.is_silent = True

    def _lose_store(self, draw: random.Random, share: float) -> str | None:
        """Lose a sync store with some probability, if nothing is lost with it that was acknowledged."""
        name, acknowledged = draw.choice(list(self.ledger.sync_media)), self.ledger.acknowledged
        if draw.random() >= share or not acknowledged or not self.ledger.is_safe_without(name, acknowledged):
            return None
        self.trace.begin(f"{name} is lost")
        self.trace.tally["lost"] += 1
        self.ledger.lose(name)
        return name

    # Sessions

    def _begin(self, number: int) -> random.Random:
        """Begin a session, and return what it is drawn with: whatever dying tasks have drawn before."""
        self.trace.begin(f"session {number}")
        self.ledger.check_sync_stores()
        _run._r.seed(f"{self._seed} {number}")
        return random.Random(f"{self._seed} {number}")

    def _any_weather(self, draw: random.Random) -> Surroundings:
        weather = partial(draw_weather, draw, self.trace)
        surroundings = self._surroundings(draw, weather, draw_outbox_weather(draw, self.trace))
        if self._order.random() < 0.4:
            self.trace.begin("the async stores are given in another order")
            surroundings.async_stores = dict(reversed(surroundings.async_stores.items()))
        share_away = draw.choice([0.0, 0.5, 1.0])  # as after a cut of the power that concerned them all
        for name, store in surroundings.sync_stores.items():
            if draw.random() < share_away and not self.ledger.lost[name]:  # what stands for a lost one works
                store.weather.be_away(draw.choice([0.01, 1.0, 30.0]))
        return surroundings

    def _surroundings(
        self, draw: random.Random, weather: Callable[[str, float], Weather], outbox_weather: OutboxWeather
    ) -> Surroundings:
        return Surroundings(
            draw,
            {name: store_on(media, weather(name, 0.5)) for name, media in self.ledger.sync_media.items()},
            {name: store_on(media, weather(name, 0.8)) for name, media in self.ledger.async_media.items()},
            outbox_weather,
        )

    def _reconcile(self, draw: random.Random) -> None:
        """Reconcile all stores, in any weather; a crash may end it."""
        surroundings = self._any_weather(draw)
        stores = surroundings.sync_stores | surroundings.async_stores

        async def run() -> None:
            report = await reconcile(stores, concurrency=draw.randint(1, 4))
            self.trace.note("reconcile", report.complete)
            if report.complete and not report.failures:
                self.ledger.check_all_stores()

        def crash() -> None:
            self.trace.note("crash of reconcile")
            self.crash(draw, power_cut=draw.random() < 0.5)
            observer.end()

        observer = Observer()
        observer.actions = {draw_step(draw): crash}
        observer.run(run)

    def _open_in_vain(self) -> None:
        """Open the outbox once more while nothing can be delivered, so that what is pending has to stay so.

        The async stores are away; or a sync store was lost, and the others, which have what it had, are away.
        """
        if self.outbox is None or self._order.random() < 0.3:
            return
        lost = self._lose_store(self._order, 0.7)
        surroundings = self._fair_surroundings(self._begin(-2))
        for name, store in (surroundings.async_stores if lost is None else surroundings.sync_stores).items():
            if name != lost:
                store.weather.be_away(math.inf)
        Session(self, last_plan(outbox=True), surroundings).run()

    def _fair_surroundings(self, draw: random.Random) -> Surroundings:
        def weather(name: str, _: float) -> Weather:
            return fair_weather(draw, self.trace, name)

        return self._surroundings(draw, weather, OutboxWeather(draw, self.trace))

    def _recover(self) -> None:
        """Catch up, reconcile and scrub while all goes well: then everything is everywhere."""
        surroundings = self._fair_surroundings(self._begin(-1))
        session = Session(self, last_plan(outbox=self.outbox is not None), surroundings)
        session.run()
        require(session.is_clean, "in fair weather all is delivered that is pending")
        stores = surroundings.sync_stores | surroundings.async_stores

        async def repair() -> None:
            reconciled = await reconcile(stores)
            rotten = {name for name, counts in reconciled.stores.items() if counts.unanswered}
            require(rotten <= self.ledger.rotten_stores, "in fair weather only rotten blobs are not given", reconciled)
            require(reconciled.complete or rotten, "in fair weather all is reconciled", reconciled)
            self.ledger.check_all_stores()
            scrubbed = await scrub(stores, repair=True)
            require(scrubbed.is_sound, "in fair weather all is repaired", scrubbed)
            self.ledger.check_intact()
            if rotten:
                require((await reconcile(stores)).complete, "what has been repaired is given")

        Observer().run(repair)

    def _maintain_liars(self) -> None:
        """Reconcile and scrub stores of their own, some of which contradict themselves."""
        for number in range(2):
            self.trace.begin(f"liars {number}")
            _run._r.seed(f"{self._seed} liars {number}")
            Upkeep(random.Random(f"{self._seed} liars {number}"), self.trace, self.pool).run()


def draw_media(draw: random.Random) -> Media:
    return Bucket() if draw.random() < 0.3 else Folder()


def store_on(media: Media, weather: Weather) -> DrawnStore:
    return LocalStore(media, weather) if isinstance(media, Folder) else RemoteStore(media, weather)
