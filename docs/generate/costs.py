"""docs/reference/costs.md: what the requests of a cluster cost per month on object storage."""

from docs.generate._tables import table
from service.server.config import ServeConfig

PAGE = "docs/reference/costs.md"
MONTH_S = 30 * 86_400
LOOKED_UP = "2026-11-30"

# US$ per 1,000 requests that write or list; list prices, one region, without free quotas or discounts.
PRICES = {
    "S3 Standard, N. Virginia": 0.005,
    "Google Cloud Storage Standard, one region": 0.005,
    "Azure Blob Storage, hot, LRS": 0.005,
}
PACES_S = (0.01, 0.05, 0.1, 0.25, 1.0)  # time between two commits of a shard with traffic
SHARDS = (1, 4, 16)  # with traffic
IMAGE_OBJECTS = 10  # of an image: its changed blocks, the list of its files, the name, and the entry that names it

HEAD = """# What a cluster costs on object storage

Object storage bills requests. The numbers below are computed by `docs/generate/costs.py` from the settings' defaults
and from list prices known on {looked_up}. Prices change: check yours. Requests that read cost a tenth and a node reads
only when it opens a shard; requests that delete cost nothing; trimming keeps the stored bytes few. All three are left
out.

| what writes | requests per second |
| --- | --- |
| commits | 1 / pace, for every shard that has traffic |
| images | {objects} / `image_s` = {images:.2f}, for every shard with traffic, if {objects} objects of each are new |
| notes of nodes | 2 / `heartbeat_s` = {notes:.1f}, for every node: its own note, and the list of the others' |

The pace of commits is the larger of `commit_s` and what the store needs for one. Ticks are answered before their
commit, so a slower pace delays `Durable`, never an answer. A shard without traffic writes nothing. PostgreSQL and a
shared folder bill no requests.

## Prices

"""
AFTER = """
That of S3 is as others quoted it in 2026, that of Google is in its pricing examples; that of Azure, which lists it per
10,000 requests, was not verified.

## Commits

Millions of requests per month, and US$ at {price} per 1,000, all shards together.

"""
NODES = """
## Images and notes

US$ per month at {price} per 1,000: {image:.2f} per shard with traffic, {note:.2f} per node. With `image_s` or
`heartbeat_s` twice as long it is half; a longer `image_s` means more journal to read when a shard is opened.
"""


def month(per_s: float, price: float) -> float:
    """Return US$ per month for so many requests per second at a price per 1,000."""
    return per_s * MONTH_S * price / 1_000


def render() -> str:
    """Return the page."""
    image_s, heartbeat_s = (ServeConfig.model_fields[name].default for name in ("image_s", "heartbeat_s"))
    images, notes = IMAGE_OBJECTS / image_s, 2 / heartbeat_s
    price = next(iter(PRICES.values()))
    prices = table(["service", "US$ per 1,000 requests that write or list"], PRICES.items())
    rows = [
        [f"{pace * 1e3:g} ms", *(f"{n / pace * MONTH_S / 1e6:,.1f} M, ${month(n / pace, price):,.0f}" for n in SHARDS)]
        for pace in PACES_S
    ]
    commits = table(["pace", *(f"{n} shard{'s' * (n > 1)} with traffic" for n in SHARDS)], rows)
    head = HEAD.format(looked_up=LOOKED_UP, objects=IMAGE_OBJECTS, images=images, notes=notes)
    nodes = NODES.format(price=f"${price}", image=month(images, price), note=month(notes, price))
    return head + prices + AFTER.format(price=f"${price}") + commits + nodes
