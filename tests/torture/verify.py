"""Compare the files of a tortured server with ledgers that are independent of its recovery.

The counting learner does not learn: it reads the surviving journal and counts what must have been learned.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from model.fold.learner import Counts
from service.journal.records import Chunk, Label, StreamOpened, Ticks, Window, entries
from service.trainer.checkpoint import Checkpoints
from service.trainer.hosting import HostedModel
from tests.journeys.crash import GATE
from tests.oracles import replay
from tests.service.histories import digest
from tests.torture.load import Load, Told
from tests.torture.report import Part

# Largest fraction of answers that belong to events cut off by a kill, which have no reference. These are the entries
# not synced at a kill, 1 to 5 % of all, more with a slower disk and a busier machine.
FEW = 0.2


class Counted(NamedTuple):
    """The contents of the records of a model up to an offset."""

    ticks: int
    labels: set[tuple[str, int]]  # stream id and seq; the first label of a tick counts
    again: int  # labels of ticks that already had one
    windows: dict[tuple[str, int], int]  # labelled ticks, by source and number

    @property
    def learned(self) -> int:
        """Return the number of external label vectors to be learned once."""
        return len(self.labels) + sum(self.windows.values())

    def exceeded(self, counts: Counts) -> int:
        """Return how many more label vectors a learner took in than there are to be learned."""
        return max(0, counts.learned + counts.unlearned - self.learned)


def count(chunks: list[Chunk], model: int, until: int) -> Counted:
    """Count the records of a model up to journal offset `until`."""
    names: dict[int, str] = {}
    ticks = 0
    labels: set[tuple[str, int]] = set()
    again = 0
    windows: dict[tuple[str, int], int] = {}
    for chunk in chunks:
        for record in chunk.records if chunk.model == model and chunk.offset < until else ():
            match record:
                case StreamOpened(stream=number, id=id):
                    names[number] = id
                case Ticks():
                    ticks += entries(record)
                case Label(stream=number, seq=seq):
                    again += (names[number], int(seq)) in labels
                    labels.add((names[number], int(seq)))
                case Window(source=source, window_seq=seq, weight=weight):
                    windows[source, int(seq)] = int((weight > 0).any(axis=1).sum())
    return Counted(ticks, labels, again, windows)


def taken(counts: Counts) -> int:
    """Return the number of external label vectors that reached the learner; refused ones may arrive again."""
    return counts.learned + counts.unlearned + counts.rejected + counts.duplicates


def missing(chunks: list[Chunk], load: Load) -> list[str]:
    """Describe what was acknowledged and is not in the journal."""
    found = []
    for told in load.told:
        kept = replay.last_seqs(chunks, told.model).get(told.stream, 0)
        found += [f"{told.stream}: tick {seq}" for seq in range(kept + 1, told.durable + 1)]
    counted = count(chunks, load.lab.model, 1 << 62)
    found += [f"label {seq}" for seq in sorted(load.labels) if (load.lab.stream, seq) not in counted.labels]
    if len(counted.windows) < load.windows:
        found.append(f"windows: {load.windows} acknowledged, {len(counted.windows)} in the journal")
    return found


def after_kill(part: Part, data: Path, copy: Path, load: Load) -> None:
    """Compare the acknowledgements of the clients with the surviving journal, right after a kill."""
    chunks = replay.survivors(data, copy)
    lost = missing(chunks, load)
    part.lost += len(lost)
    part.wrong += lost[:5]
    for told in load.told:
        told.killed(replay.last_seqs(chunks, told.model).get(told.stream, 0))


def at_end(part: Part, data: Path, files: dict[int, replay.Files], load: Load) -> None:
    """Compare every answer, every label and the weights with the oracles, after the server has drained."""
    chunks = list(replay.read(data / "journal"))
    part.acknowledged += load.acknowledged
    lost = missing(chunks, load)
    part.lost += len(lost)
    part.wrong += lost[:5]
    answers(part, chunks, files, load.told)
    for number, hosted in saved(data / "trainer.db").items():
        learning(part, chunks, files[number], hosted)


def saved(path: Path) -> dict[int, HostedModel]:
    """Return the models in a checkpoint, by number."""
    checkpoints = Checkpoints(path)
    try:
        return checkpoints.load(GATE)[1]
    finally:
        checkpoints.close()


def answers(part: Part, chunks: list[Chunk], files: dict[int, replay.Files], ledgers: list[Told]) -> None:
    """Compare each answer bit for bit with an unbroken run of the version that the journal names."""
    expected = {model: replay.served(chunks, files[model], model).answers for model in files}
    compared = differ = 0
    for told in ledgers:
        for seq, (version, y) in told.answers.items():
            oracle = expected[told.model].get((told.stream, seq))
            if oracle is None:
                part.lost += 1
                part.wrong.append(f"{told.stream}: tick {seq} was answered and is not in the journal")
                continue
            compared += 1
            if oracle.x.tobytes() != told.rows[seq - 1].tobytes():
                part.wrong.append(f"{told.stream}: tick {seq} is journaled with other values")
            elif (version, y) != (oracle.version, oracle.y.tobytes()):
                # A first answer may name a later version: the record of its swap was cut off as well.
                if seq in told.redone and version in files[told.model].onnx:
                    differ += 1  # its first answer, before the kill
                else:
                    by = f"by version {version}, by {oracle.version} in the journal"
                    part.wrong.append(f"{told.stream}: tick {seq} got another answer ({by})")
    part.numbers["answers compared"] = part.numbers.get("answers compared", 0) + compared
    part.numbers["of before a kill"] = part.numbers.get("of before a kill", 0) + differ
    if differ > FEW * compared:
        part.wrong.append(f"{differ} of {compared} answers are not in the journal")


def learning(part: Part, chunks: list[Chunk], files: replay.Files, saved: HostedModel) -> None:
    """Compare the checkpoint with an uninterrupted fold, and its counts with those of the counting learner."""
    whole = replay.learned(chunks, files, GATE, saved.offset, saved.number)
    part.digests_unequal += digest(saved) != digest(whole)
    must = count(chunks, saved.number, saved.offset)
    counts = saved.learner.counts
    done = [(counts.ticks, must.ticks)]
    if saved.learner.spec.task != "forecast":
        part.learned_twice += must.exceeded(counts)
        done.append((taken(counts), must.learned + must.again))
    for did, should in done:
        part.learned_twice += max(0, did - should)
        if did < should:
            part.lost += should - did
            part.wrong.append(f"model {saved.number}: {did} learned, {should} in the journal")
