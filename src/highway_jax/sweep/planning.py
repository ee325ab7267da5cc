"""Plans which batches of trials to train next, from the config and the results so far.

Trials may be dropped at rungs (successive halving: Jamieson & Talwalkar 2016), and the best setting
of a cell may be trained again with other seeds. The plan is a pure function of the config, the rows
of results.csv and the names of the batches that have checkpoints, so the directory of a run is
sufficient to resume it.

A trial whose row is removed from results.csv is trained again. It resumes from the checkpoint of
the highest rung that has one, or starts from scratch. At a rung where its cell was already ranked,
it competes for the remaining positions; earlier promotions are kept. If the best setting of a cell
changes, the new best setting is trained again too, and the trials of the earlier one keep their
rows.

Pruners of search libraries handle one trial at a time. Here a rung is one compiled program of many
trials, which are ranked together. With `sweep.ask`, a cell has several such groups of trials. An
adaptive sampler proposes the settings of each from the results of those before
(`highway_jax.sweep.adaptive`).
"""

import bisect
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from highway_jax.config import config as config_lib
from highway_jax.sweep import adaptive
from highway_jax.sweep.design import Cell, cells
from highway_jax.sweep.outcomes import DROPPED, FINISHED, PROMOTED, SETTLED, WAITING, merit
from highway_jax.sweep.trials import Batch, Trial, batch_name, further, rung_of


class _Disk:
    """The rows and checkpoints of each trial.

    Attributes:
        rows: Rows of results.csv by trial.
        sources: The smallest batch with checkpoints of a trial, by rung and trial.
    """

    def __init__(self, rows: Iterable[dict[str, Any]], begun: Mapping[str, Collection[int]]):
        self.rows = {row["trial"]: dict(row) for row in rows}
        self.sources: dict[tuple[int, int], str] = {}
        self._begun: dict[int, int] = {}
        # Small batches last: they are halves of larger ones with the same trials.
        for name, indices in sorted(begun.items(), key=lambda item: -len(item[1])):
            rung = rung_of(name)
            for index in indices:
                self.sources[rung, index] = name
                self._begun[index] = max(rung, self._begun.get(index, 0))

    def rung(self, trial: Trial) -> int:
        """Returns the rung at which a trial is to be trained, or was last trained."""
        row = self.rows.get(trial.index)
        if row is None:
            return self._begun.get(trial.index, 0)
        return row["rung"] + (row["status"] == PROMOTED)

    def is_pending(self, trial: Trial, cell: Cell) -> bool:
        """Returns whether a trial must be trained at its rung."""
        row = self.rows.get(trial.index)
        return row is None or row["status"] == PROMOTED or _is_extended(row, cell)

    def best(self, cell: Cell, criterion: str) -> int | None:
        """Returns the position of a cell's best trial if all are settled and one has finished."""
        rows = [self.rows.get(trial.index) for trial in cell.trials]
        if not all(row and row["status"] in SETTLED for row in rows):
            return None
        done = {i: row for i, row in enumerate(rows) if row and row["status"] == FINISHED}
        return min(done, key=lambda i: merit(criterion, done[i]), default=None)


def _is_extended(row: dict[str, Any], cell: Cell) -> bool:
    """Returns whether the last rung of a cell has more epochs than a row of that rung."""
    return row["rung"] == len(cell.rungs) - 1 and row["epochs"] < cell.rungs[-1]


def extended(rows: Iterable[dict[str, Any]], known: list[Cell]) -> set[int]:
    """Returns the trials with rows that must be trained for more epochs."""
    of_trial = {row["trial"]: row for row in rows}
    return {
        trial.index
        for cell in known
        for trial in cell.trials
        if trial.index in of_trial and _is_extended(of_trial[trial.index], cell)
    }


def plan(
    config: ConfigDict,
    rows: Iterable[dict[str, Any]],
    begun: Mapping[str, Collection[int]] | None = None,
    known: list[Cell] | None = None,
) -> list[Batch]:
    """Lists the batches that can be trained now.

    Trials with equal static settings, equal rungs and the same optional hyperparameters
    (`config.OPTIONAL`) share a batch of at most `runtime.max_trials` trials. Trials with
    checkpoints stay in the batch of their checkpoint and come first.

    Args:
        config: The run's config.
        rows: Rows of results.csv.
        begun: Trials of the batches that have checkpoints, by the batch's name.
        known: The run's cells; None for those of a new run.
    """
    disk = _Disk(rows, begun or {})
    known = _asked(config, disk, known)
    pending: list[tuple[Trial, int, int, bool]] = []
    for cell in known:
        last = len(cell.rungs) - 1
        here = [(min(disk.rung(t), last), t) for t in cell.trials if disk.is_pending(t, cell)]
        here.sort(key=lambda pair: pair[0])
        pending += ((trial, rung, cell.rungs[rung], rung == last) for rung, trial in here)
    for cell in known:
        best = disk.best(cell, config.sweep.criterion) if cell.retrained else None
        for trial in _retrained(config, cell, best) if best is not None else ():
            if trial.index not in disk.rows:
                pending.append((trial, 0, trial.settings["training.epochs"], True))
    groups: dict[tuple, list[Trial]] = {}
    numeric = config_lib.NUMERIC.values()
    keys = [key for key in config_lib.varied_keys(config) if key not in numeric]
    for trial, rung, epochs, last in pending:
        settings = trial.settings
        static = (*[settings[key] for key in keys], further(settings))
        groups.setdefault((rung, epochs, last, static), []).append(trial)
    size = config.runtime.max_trials or sum(map(len, groups.values()))
    batches = [
        Batch(batch_name(part, rung), tuple(part), rung, epochs, last)
        for (rung, epochs, last, _), group in groups.items()
        for part in _parts(sorted(group, key=_index), rung, size, disk.sources)
    ]
    return distinct(batches, begun or {})


def distinct(batches: Iterable[Batch], begun: Mapping[str, Collection[int]]) -> list[Batch]:
    """Returns batches of which none has the name of a saved batch of other trials.

    A batch that trains some of the trials of a saved one must not replace its checkpoints, which
    are the only ones of the other trials.

    Args:
        batches: The batches.
        begun: Trials of the batches that have checkpoints, by the batch's name.
    """

    def named(batch: Batch) -> Batch:
        indices = [trial.index for trial in batch.trials]
        if sorted(begun.get(batch.name) or indices) == sorted(indices):
            return batch
        return batch._replace(name=batch_name(batch.trials, batch.rung, all_indices=True))

    return [named(batch) for batch in batches]


def _asked(config: ConfigDict, disk: _Disk, known: list[Cell] | None) -> list[Cell]:
    """Returns the cells with the trials that can be trained now, or were trained."""
    known = cells(config) if known is None else known
    return adaptive.asked(config.sweep, known, disk.rows)


def _index(trial: Trial) -> int:
    return trial.index


def _parts(
    group: list[Trial], rung: int, size: int, sources: Mapping[tuple[int, int], str]
) -> list[list[Trial]]:
    """Returns trials grouped by the batch from which they resume, then new ones, `size` each."""
    begun: dict[str, list[Trial]] = {}
    new = []
    for trial in group:
        source = sources.get((rung, trial.index))
        (new if source is None else begun.setdefault(source, [])).append(trial)
    return [*begun.values(), *(new[i : i + size] for i in range(0, len(new), size))]


def find(
    config: ConfigDict, rows: Iterable[dict[str, Any]], known: list[Cell] | None = None
) -> dict[int, Trial]:
    """Returns the trials known before training, and those of rows, by index."""
    disk = _Disk(rows, {})
    known = _asked(config, disk, known)
    found = {trial.index: trial for cell in known for trial in cell.trials}
    seeds = len(config.sweep.retrain_seeds)
    for cell, indices in _with_rows(known, disk):
        positions = {(index - cell.retrained.start) // seeds for index in indices}
        if len(cell.retrained) == seeds:
            best = disk.best(cell, config.sweep.criterion)
            positions = set() if best is None else {best}
        for position in positions:
            if position < len(cell.trials):  # Later settings are unknown until rows are restored.
                found |= {trial.index: trial for trial in _retrained(config, cell, position)}
    return found


def outdated(
    config: ConfigDict, rows: Iterable[dict[str, Any]], known: list[Cell] | None = None
) -> list[str]:
    """Returns a sentence for each cell whose retrained setting is no longer its best."""
    disk, lines = _Disk(rows, {}), []
    known = _asked(config, disk, known)
    for cell, indices in _with_rows(known, disk):
        best = disk.best(cell, config.sweep.criterion)
        if best is None:
            continue
        current = {trial.index for trial in _retrained(config, cell, best)}
        if len(cell.retrained) == len(
            current
        ):  # In format 1, the index does not depend on the setting.
            values = cell.trials[best].hyperparameters.items()
            current = {i for i in current.intersection(indices) if values <= disk.rows[i].items()}
        if stale := sorted({*indices} - current):
            lines.append(
                f"{cell.case}-best: {name_trials(stale)} trained a setting that is no longer the"
                f" best of its cell; the best is now that of trial {cell.trials[best].index}"
            )
    return lines


def name_trials(indices: Collection[int]) -> str:
    """Returns "trial 3" or "trials 3, 5"."""
    return f"trial{'s' * (len(indices) > 1)} {', '.join(map(str, indices))}"


def _with_rows(known: list[Cell], disk: _Disk) -> Iterator[tuple[Cell, list[int]]]:
    """Yields cells that have rows of `retrained` trials, and the indices of these rows."""
    starts, found = [cell.retrained.start for cell in known], {}
    for index in sorted(disk.rows):
        number = bisect.bisect_right(starts, index) - 1
        if index in known[number].retrained:
            found.setdefault(number, []).append(index)
    yield from ((known[number], indices) for number, indices in found.items())


def _retrained(config: ConfigDict, cell: Cell, position: int) -> list[Trial]:
    """Returns the trials that retrain the setting at a position of a cell."""
    seeds, trial = config.sweep.retrain_seeds, cell.trials[position]
    first = position * len(seeds) % len(cell.retrained)
    return [
        Trial(index, f"{cell.case}-best", trial.settings, seed)
        for index, seed in zip(cell.retrained[first : first + len(seeds)], seeds, strict=True)
    ]


def decide(
    config: ConfigDict,
    rows: list[dict[str, Any]],
    begun: Mapping[str, Collection[int]] | None = None,
    known: list[Cell] | None = None,
) -> list[dict[str, Any]]:
    """Returns the rows with updated states of waiting trials.

    Once all trials of a round have reached a rung, the best by `sweep.criterion` are promoted and
    the others are dropped. Diverged and failed trials are never promoted. Earlier promotions are
    kept, including those of trials without rows that have checkpoints of a later rung.

    Args:
        config: The run's config.
        rows: Rows of results.csv.
        begun: Trials of the batches that have checkpoints, by the batch's name.
        known: The run's cells; None for those of a new run.
    """
    disk = _Disk(rows, begun or {})
    known = _asked(config, disk, known)
    for round_, keeps in [(r, cell.keeps) for cell in known for r in cell.rounds()]:
        for rung, keep in enumerate(keeps):
            here = [disk.rows.get(t.index) for t in round_ if disk.rung(t) == rung]
            if not all(row and row["rung"] == rung for row in here):
                break
            given = sum(disk.rung(trial) > rung for trial in round_)
            waiting = [row for row in here if row and row["status"] == WAITING]
            waiting.sort(key=lambda row: merit(config.sweep.criterion, row))
            for place, row in enumerate(waiting):
                row["status"] = PROMOTED if given + place < keep else DROPPED
    return [disk.rows[index] for index in sorted(disk.rows)]


def work(trials: Iterable[Mapping[str, Any]], epochs: float) -> float:
    """Returns the work of training trials for some epochs, for estimates of the time left.

    The time of a step is about proportional to the depth and the width of a net.

    Args:
        trials: Settings by dotted key.
        epochs: Epochs of each.
    """
    return epochs * sum(trial["model.depth"] * trial["model.width"] for trial in trials)


def work_done(rows: Iterable[dict[str, Any]], but: Collection[int] = ()) -> float:
    """Returns the `work` of the rows of results.csv, without those of some trials."""
    return sum(
        row["epochs"] * row["depth"] * row["width"] for row in rows if row["trial"] not in but
    )


def work_planned(config: ConfigDict, known: list[Cell]) -> float:
    """Returns the `work` of a whole run: of all rungs, and of settings that are trained again."""
    total = 0.0
    for cell in known:
        whole = work((trial.settings for trial in cell.trials), 1) / len(cell.trials)
        for round_ in cell.rounds():
            size, start = len(round_), 0
            for count, end in zip((size, *cell.keeps), cell.rungs, strict=True):
                total += whole * min(count, size) * (end - start)
                start = end
        total += whole * len(config.sweep.retrain_seeds) * cell.rungs[-1]
    return total
