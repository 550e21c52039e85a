"""`freshet quarantine …`: labels and windows that were acknowledged but could not be learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.remote.models import Json, Name, run
from service.console.remote import Remote
from service.console.verbs import LOCAL, asking, group

if TYPE_CHECKING:
    import freshet

quarantine = group("quarantine", "Labels and windows that a running server could not learn: list them, replay them.")


@quarantine.command("list")
@asking
def list_items(name: Name, server: Remote = LOCAL, json: Json = False) -> None:
    """List items that could not be learned, with the reason, oldest first."""

    async def verb(client: freshet.Client) -> int:
        from service.console.tables import plain, print_json, print_table

        items = [item async for item in client.quarantine(name)]
        if json:
            print_json([plain(item) for item in items])
        elif items:
            rows = [
                (
                    i.id, i.reason, "window" if i.source else "label", i.source or i.stream, i.window_seq or i.seq,
                    ", ".join(f"{value:g}" for value in i.y), i.offset,
                )
                for i in items
            ]  # fmt: skip
            print_table(("id", "reason", "what", "of", "number", "value", "record"), rows)
        else:
            print(f"{name}: nothing is in quarantine")
        return 0

    raise run(server, verb)


@quarantine.command()
@asking
def replay(
    name: Name,
    ids: Annotated[list[int] | None, typer.Argument(help="Ids of items, as `list` prints them.", metavar="ID…")] = None,
    every: Annotated[bool, typer.Option("--all", help="Replay all items.")] = False,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Send items to learning again.

    Each label becomes a window with the ticks before it. Exit code 1 if an item cannot be replayed; the reason is
    printed.
    """

    async def verb(client: freshet.Client) -> int:
        from service.common.errors import Invalid
        from service.console.tables import plain, print_json

        if bool(ids) == every:
            raise Invalid("ids", ids or "none", "name the items, or give --all")
        if ids and not all(0 < id < 2**63 for id in ids):
            raise Invalid("ids", ids, "give ids that `freshet quarantine list` shows")
        wanted = [item.id async for item in client.quarantine(name)] if every else ids or []
        answer = await client.replay(name, wanted)
        if json:
            print_json(plain(answer))
        else:
            print(f"{name}: {len(answer.replayed)} of {len(set(wanted))} sent to learning")
            for id, why in sorted(answer.refused.items()):
                print(f"{id}: {why}")
        return 1 if answer.refused else 0

    raise run(server, verb)
