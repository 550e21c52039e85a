"""What the tests read in a page: fenced blocks with the remarks above them, links, anchors."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT

FENCE = re.compile(r"^```(.*)$")
REMARK = re.compile(r"^<!-- (not run|long|fails|stopped)(?:: (.*?))? -->$")
NAMED = re.compile(r"^(?:#|//) ([\w./-]+\.\w+)$")


@dataclass(frozen=True)
class Block:
    """One fenced block. line: of its opening fence, from 1. remarks: of the comments directly above it, by kind."""

    line: int
    language: str
    text: str
    remarks: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The file that the block is the content of, where its first line is a comment with nothing but a name."""
        named = NAMED.match(self.text.partition("\n")[0])
        return named.group(1) if named else ""


def pages() -> list[Path]:
    """Every page that users read. The map of the code and the changelog hold nothing that is run."""
    found = [ROOT / "README.md", ROOT / "client" / "README.md", ROOT / "deploy" / "README.md"]
    found += sorted((ROOT / "docs").rglob("*.md"))
    return [page for page in found if page.exists()]


def name(page: Path) -> str:
    """A page as the tests call it."""
    return str(page.relative_to(ROOT))


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    remarks: dict[str, str] = {}
    inside: list[str] | None = None
    opened, language = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if inside is not None and fence:
            yield Block(opened, language, "\n".join(inside), remarks)
            inside, remarks = None, {}
        elif inside is not None:
            inside.append(line)
        elif fence:
            inside, opened, language = [], number, fence.group(1).strip()
        elif remark := REMARK.match(line):
            remarks[remark.group(1)] = remark.group(2) or ""
        else:
            remarks = {}


def prose(text: str) -> str:
    """The page without its blocks."""
    kept, outside = [], True
    for line in text.splitlines():
        if FENCE.match(line):
            outside = not outside
        elif outside:
            kept.append(line)
    return "\n".join(kept)


def links(text: str) -> list[str]:
    """Targets of the page's links and pictures, those to other sites left out."""
    found = re.findall(r"\]\(([^()\s]+)\)", prose(text)) + re.findall(r'(?:src|href)="([^"]+)"', prose(text))
    return [target for target in found if "://" not in target]


def anchors(text: str) -> set[str]:
    """What `#…` may follow: the headings, as code hosts make anchors of them, and anchors made by hand."""
    made = {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", prose(text), re.M)
    }
    return made | set(re.findall(r'<a id="([^"]+)">', text))
