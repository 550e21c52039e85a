"""The nodes of one client: their addresses, a channel to each, and where each model was served last."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence

import grpc

from freshet.connection import Route
from freshet.search import Search, State, race, rendezvous
from freshet.target import Address, joined, name_of

MOST_LEARNED = 256  # addresses named by nodes; the one named longest ago is forgotten
MOST_HOMES = 10_000  # models whose node is remembered
RESOLVE_S = 5.0  # longest wait for DNS, and the shortest time between two questions

_STATES = {
    grpc.ChannelConnectivity.READY: State.READY,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE: State.FAILED,
    grpc.ChannelConnectivity.SHUTDOWN: State.FAILED,
}


async def resolve(name: Address) -> list[str]:
    """Return the addresses of a DNS name, with its port, in a stable order. Raises OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(RESOLVE_S):
        found = await loop.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
    return sorted({joined(str(info[4][0]), name.port) for info in found})


class Nodes:
    """Known nodes and their channels. For use in one event loop, from `open` to `aclose`.

    targets: as given to `connect`; each is a node, but a DNS name with several addresses is one node per address.
    make: returns an unopened channel. route: explains why a node cannot be reached. check: raises InvalidArgument for
    an address that this client must not send its token to.
    """

    def __init__(
        self,
        targets: Sequence[str],
        make: Callable[[str], grpc.aio.Channel],
        route: Callable[[str], Route] | None = None,
        check: Callable[[str], None] = lambda address: None,
    ) -> None:
        self._targets, self._make, self.route, self._check = tuple(targets), make, route, check
        self._given = self._targets
        self._learned: OrderedDict[str, None] = OrderedDict()
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._resolving: asyncio.Task[None] | None = None
        self._resolved_at = 0.0  # loop time, seconds
        self.is_open = False

    # --- life

    async def open(self) -> None:
        """Look up DNS names and make the channels, which connect when they are used."""
        await self._resolve()
        self.is_open = True
        for address in self._given:
            self.channel(address)

    async def aclose(self) -> None:
        """Close every channel."""
        self.is_open = False
        if self._resolving is not None:
            self._resolving.cancel()
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()

    # --- addresses

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every known address: first those given, or resolved, then those that nodes named."""
        return (*self._given, *self._learned)

    def order(self, model: str) -> list[str]:
        """Return every known address, in the order in which a model is looked for."""
        if len(self._given) == 1 and not self._learned:
            return list(self._given)
        return rendezvous(model, self._given) + rendezvous(model, self._learned)

    def learn(self, address: str) -> None:
        """Add an address that a node named. Raises InvalidArgument if it is none, or must not be connected to."""
        if address in self._given:
            return
        if address in self._learned:
            self._learned.move_to_end(address)
            return
        self._check(address)
        self._learned[address] = None
        while len(self._learned) > MOST_LEARNED:
            self._channels.pop(self._learned.popitem(last=False)[0], None)  # calls that are open keep it

    def home(self, model: str) -> str:
        """Return where the model was served last; empty if it is not known."""
        return self._homes.get(model, "")

    def remember(self, model: str, address: str) -> None:
        """Record that this node serves the model, for all calls of this client."""
        if self._homes.get(model) != address and model:
            self._homes[model] = address
            if len(self._homes) > MOST_HOMES:
                self._homes.popitem(last=False)

    def forget(self, model: str, address: str) -> None:
        """Record that this node does not serve the model any more."""
        if self._homes.get(model) == address:
            del self._homes[model]

    def look_again(self) -> None:
        """Ask DNS again, beside what else is done, unless that was done in the last RESOLVE_S."""
        if not any(map(name_of, self._targets)) or (self._resolving is not None and not self._resolving.done()):
            return
        if asyncio.get_running_loop().time() - self._resolved_at >= RESOLVE_S:
            self._resolving = asyncio.create_task(self._resolve())

    async def _resolve(self) -> None:
        """Look up the DNS names. One without an answer, or with a single address, is left to gRPC, as one node."""
        given: list[str] = []
        for target in self._targets:
            found: list[str] = []
            if (name := name_of(target)) is not None:
                with contextlib.suppress(OSError, UnicodeError):  # gRPC fails with the reason; TimeoutError is OSError
                    found = await resolve(name)
            given += found if len(found) > 1 else [target]
        self._resolved_at = asyncio.get_running_loop().time()
        for gone in set(self._given) - set(given) - set(self._targets):
            self._learned[gone] = None  # it may still serve streams
        for one in given:
            self._learned.pop(one, None)
        self._given = tuple(dict.fromkeys(given))

    # --- connections

    def channel(self, address: str) -> grpc.aio.Channel:
        """Return the channel to a node."""
        if address not in self._channels:
            self._channels[address] = self._make(address)
        return self._channels[address]

    async def reach(self, search: Search, model: str) -> str:
        """Return the node for the next call: the best one that can be connected to. If none can, the best one; the
        call there then has the error."""
        order = search.candidates(self.order(model), self.home(model))
        address = order[0] if len(order) == 1 else await self._connect(order, search)
        search.reached(address)
        return address

    async def _connect(self, order: Sequence[str], search: Search) -> str:
        loop = asyncio.get_running_loop()
        begun, since = [order[0]], loop.time()
        watches: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                seen = {one: self.channel(one).get_state(try_to_connect=True) for one in begun}
                states = {one: _STATES.get(state, State.WAITING) for one, state in seen.items()}
                decision = race(order, states, loop.time() - since)
                if decision.over:
                    break
                if decision.start is not None:
                    begun, since = [*begun, decision.start], loop.time()
                    continue
                waiting = [one for one in begun if states[one] is State.WAITING]  # only these: others are done already
                for one in waiting:
                    if one not in watches or watches[one].done():
                        watches[one] = asyncio.create_task(self.channel(one).wait_for_state_change(seen[one]))
                changes = [watches[one] for one in waiting]
                await asyncio.wait(changes, timeout=decision.wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for watch in watches.values():
                watch.cancel()
            await asyncio.gather(*watches.values(), return_exceptions=True)
        winner = decision.winner or order[0]
        for one, now in states.items():
            if now is State.FAILED and one != winner:
                search.failed(one, "no connection")
        return winner
