"""One page as its reader would follow it: a checkout, a shell, a notebook, and a second terminal for the server.

`sh` blocks run in one shell environment, `python` blocks are cells of one notebook (they may await), blocks whose first
line is `# name.ext` or `// name.ext` are saved under that name, and `text` or `json` blocks are what the block before
has printed.
"""

import argparse
import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import shlex
import signal
import sys
import traceback
from pathlib import Path

from tests.docs.markdown import Block, blocks

LIMIT_S = 240.0
SERVES = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?freshet serve\b(?!.*--help)", re.M)
NUMBER = re.compile(r"[+-]?\d+(?:[.,:]\d+)*(?:e[+-]?\d+)?")
OUTPUTS = ("text", "json")
PICTURES = ("mermaid",)


class Wrong(Exception):
    """A block that did not do what the page says."""


def shows(expected: str, said: str) -> str:
    """The first line of `expected` that `said` does not have, in that order; empty if it has them all.

    Numbers may differ, `…` stands for anything, runs of spaces are one, and other lines may come in between.
    """
    lines = iter(said.splitlines())
    for line in expected.splitlines():
        pattern = re.compile(_pattern(line))
        if line.strip() not in ("", "…") and not any(pattern.fullmatch(" ".join(got.split())) for got in lines):
            return line
    return ""


def _pattern(line: str) -> str:
    number = "[+-]?[0-9][0-9.,:e+-]*"
    return ".*".join(
        number.join(map(re.escape, NUMBER.split(part))) for part in re.split(" *… *", " ".join(line.split()))
    )


class Session:
    """The reader's terminals, in the current directory."""

    def __init__(self) -> None:
        self._cells: dict[str, object] = {"__name__": "__main__"}
        self._env = dict(os.environ)
        self._server: asyncio.subprocess.Process | None = None

    async def run(self, block: Block) -> str | None:
        """Do what the block says; returns what it printed, None if it is no block that prints. Raises Wrong."""
        if "stopped" in block.remarks:
            await self.stop_server()
        if block.file:
            Path(block.file).write_text(block.text + "\n", encoding="utf-8")
            return None
        if block.language == "python":
            return await self._cell(block)
        if block.language == "sh":
            serves = SERVES.search(block.text) and "fails" not in block.remarks
            return await (self._serve(block.text) if serves else self._shell(block))
        raise Wrong(f"a {block.language or 'nameless'} block needs a first line `# name.ext`, or a command before it")

    async def _shell(self, block: Block) -> str:
        script = f"set -aeuo pipefail\n{{\n{block.text}\n}} 3>&-\nenv -0 >&3\n"
        read, write = os.pipe()
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", f"exec 3>&{write} {write}>&-\n{script}",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            pass_fds=[write], env=self._env,
        )  # fmt: skip
        os.close(write)
        said = (await process.communicate())[0].decode()
        with open(read, encoding="utf-8") as pipe:
            after = dict(line.split("=", 1) for line in pipe.read().split("\0") if line)
        wanted = int(block.remarks.get("fails") or 0)
        if process.returncode != wanted:
            raise Wrong(f"exit code {process.returncode}, not {wanted}:\n{said}")
        if after:
            self._env = after
            os.chdir(after["PWD"])
        return said

    async def _cell(self, block: Block) -> str:
        said = io.StringIO()
        try:
            code = compile(block.text, f"<line {block.line}>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            with contextlib.redirect_stdout(said):
                result = eval(code, self._cells)
                if inspect.isawaitable(result):
                    await result
        except Exception as error:
            raise Wrong("".join(traceback.format_exception(error))) from error
        return said.getvalue()

    # --- the server's terminal

    async def _serve(self, text: str) -> str:
        await self.stop_server()
        self._server = await asyncio.create_subprocess_exec(
            "bash", "-c", f"exec env {text}",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env=self._env,
        )  # fmt: skip
        said, output = [], self._server.stdout
        assert output is not None
        async for line in output:
            said.append(line.decode())
            if said[-1].startswith("ready "):
                self._rest = asyncio.create_task(output.read())  # so that its pipe never fills
                return "".join(said)
        raise Wrong(f"the server ended with {await self._server.wait()}:\n{''.join(said)}")

    async def stop_server(self) -> None:
        """Ctrl-C in its terminal, if there is one. Raises Wrong unless it drains."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.send_signal(signal.SIGINT)
        code = await server.wait()
        if code:
            raise Wrong(f"the server ended with {code} after Ctrl-C:\n{(await self._rest).decode()}")


async def follow(text: str, long: bool) -> None:
    """Run a page's blocks in the current directory. Raises Wrong naming the line."""
    session = Session()
    said: str | None = None  # by the last block that is no output
    skipped = False  # that block
    try:
        for block in blocks(text):
            if block.language in PICTURES or (block.language in OUTPUTS and skipped):
                continue
            print(f"--- line {block.line}: {block.language}", flush=True)
            try:
                if block.language in OUTPUTS and said is not None:
                    if missing := shows(block.text, said):
                        raise Wrong(f"never printed {missing!r} but\n{said}")
                    continue
                skipped = "not run" in block.remarks or ("long" in block.remarks and not long)
                said = None
                if not skipped:
                    async with asyncio.timeout(LIMIT_S):
                        said = await session.run(block)
                    print(said or "", end="", flush=True)
            except (Wrong, TimeoutError) as error:
                what = f"nothing for {LIMIT_S:g} s" if isinstance(error, TimeoutError) else error
                raise Wrong(f"line {block.line}: {what}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            await session.stop_server()


def main() -> int:
    """`python -m tests.docs.session PAGE [--long]`, in a checkout made for it."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("page", type=Path)
    arguments.add_argument("--long", action="store_true")
    given = arguments.parse_args()
    try:
        asyncio.run(follow(given.page.read_text(encoding="utf-8"), given.long))
    except Wrong as error:
        print(f"{shlex.quote(str(given.page))}, {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
