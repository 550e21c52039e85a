"""Run the decoders under atheris, guided by coverage: python -m tests.torture.fuzz RUNS FOLDER [FLAGS …]

libFuzzer ends the process: with exit code 0 after all runs, otherwise with a report. FLAGS are passed to libFuzzer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["service", "model"]):
    from tests.torture.decoders import decoders


def main(runs: int, folder: Path, flags: list[str]) -> None:
    """Fuzz. The first byte of an input selects the decoder."""
    corpus, files = folder / "corpus", folder / "files"
    corpus.mkdir()
    files.mkdir()
    every = list(decoders(files).values())
    for kind, decoder in enumerate(every):
        for n, sound in enumerate(decoder.sound):
            (corpus / f"{kind}-{n}").write_bytes(bytes((kind,)) + sound)

    def once(data: bytes) -> None:
        if data:
            every[data[0] % len(every)].read(data[1:])

    atheris.Setup([sys.argv[0], f"-runs={runs}", "-max_len=4096", *flags, str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
