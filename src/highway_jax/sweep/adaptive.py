"""Adaptive search: Optuna proposes the settings of trials from the results so far.

The trials of a cell are drawn in rounds of `sweep.ask` trials. The first round is that of random
search. Once every trial of the rounds so far is settled, Optuna's tree-structured Parzen estimator
(Bergstra et al. 2011, "Algorithms for hyper-parameter optimization") proposes the next one. Trials
that finished are ranked before those that were dropped, these by their epochs and their score, and
those that diverged come last. Trials that failed, for example for lack of memory, are not used.

What is proposed is a pure function of the config and of the rows of the earlier rounds: each round
has a study of its own, which is filled from the rows, and a sampler whose seed is that of the first
of its trials. So a run resumes without a state of the sampler, as long as Optuna has the same
version. The settings of a trial that has a row are read from the row. They remain valid if an
earlier trial is trained again with another result, and reading a finished run does not need Optuna.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from highway_jax.config import config as config_lib
from highway_jax.errors import UserError, require, show
from highway_jax.sweep import outcomes
from highway_jax.sweep.design import Cell
from highway_jax.sweep.trials import Trial

Distribution = tuple[Any, ...]
"""A value of `sweep.draw`: the kind of a distribution, and its bounds or choices."""


class Told(NamedTuple):
    """The result of a trial as the sampler uses it.

    Attributes:
        values: Its drawn settings, in the order of `sweep.draw`.
        status: A final state: finished, dropped or diverged.
        epochs: Epochs trained.
        score: Smaller is better.
    """

    values: tuple[Any, ...]
    status: str
    epochs: int
    score: float


def require_optuna() -> None:
    """Checks that Optuna is installed.

    Raises:
        UserError: If it is not.
    """
    require("optuna", "config.sweep.sampler=tpe", "optuna")


def asked(
    sweep: ConfigDict, known: list[Cell], rows: Mapping[int, Mapping[str, Any]]
) -> list[Cell]:
    """Returns cells with those of their trials whose settings are known, or can be proposed now.

    Args:
        sweep: The `sweep` section.
        known: The cells of random search.
        rows: Rows of results.csv by trial.

    Raises:
        UserError: If Optuna is needed and not installed, or a row has settings that cannot be
            drawn.
    """
    if sweep.sampler == "random":
        return known
    drawn = config_lib.flatten(sweep.draw)
    return [
        cell._replace(trials=tuple(_asked(sweep.criterion, drawn, cell, rows))) for cell in known
    ]


def _asked(
    criterion: str,
    drawn: Mapping[str, Distribution],
    cell: Cell,
    rows: Mapping[int, Mapping[str, Any]],
) -> list[Trial]:
    first, *others = cell.rounds()
    trials = list(first)
    for round_ in others:
        found = {t.index: _settings(drawn, rows[t.index]) for t in round_ if t.index in rows}
        if len(found) < len(round_):
            before = [rows.get(trial.index, {}) for trial in trials]
            if not all(row.get("status") in outcomes.SETTLED for row in before):
                break
            told = [
                Told(
                    tuple(trial.settings[key] for key in drawn),
                    row["status"],
                    row["epochs"],
                    outcomes.merit(criterion, row),
                )
                for trial, row in zip(trials, before, strict=True)
                if row["status"] != outcomes.FAILED
            ]
            new = propose(tuple(drawn.items()), tuple(told), round_[0].seed, len(round_))
            found = {t.index: own for t, own in zip(round_, new, strict=True)} | found
        trials += [t._replace(settings=t.settings | found[t.index]) for t in round_]
    return trials


def _settings(drawn: Mapping[str, Distribution], row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the drawn settings of a row by dotted key."""
    settings = {}
    for key, (kind, *bounds) in drawn.items():
        column = outcomes.column(key)
        value = row.get(column)
        if isinstance(value, list):  # Other processes receive rows as JSON.
            value = tuple(value)
        if kind == "choice":
            is_right = value in bounds
        else:
            is_right = isinstance(value, int | float) and bounds[0] <= value <= bounds[1]
        if not is_right:
            raise UserError(
                f"results.csv: {column} of trial {row['trial']} is {show(value)}; allowed: a value"
                f" of config.sweep.draw.{key}, {show((kind, *bounds))}; restore the file"
            )
        settings[key] = int(row[column]) if kind == "integer" else value
    return settings


@functools.lru_cache(maxsize=1024)  # Plans are made several times between two rounds.
def propose(
    drawn: tuple[tuple[str, Distribution], ...], told: Sequence[Told], seed: int, count: int
) -> list[dict[str, Any]]:
    """Returns the settings by dotted key that Optuna proposes for some trials.

    Args:
        drawn: Keys and distributions.
        told: Results of earlier trials.
        seed: Seed of the sampler, below 2**32.
        count: Number of trials.

    Raises:
        UserError: If Optuna is not installed.
    """
    require_optuna()
    import optuna  # Loads slowly.

    space = {key: _distribution(*distribution) for key, distribution in drawn}
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # It reports each new study.
    try:
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
        study = optuna.create_study(sampler=sampler)
    finally:
        optuna.logging.set_verbosity(level)
    for one in told:
        is_finished = one.status == outcomes.FINISHED
        pairs = zip(drawn, one.values, strict=True)
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState["COMPLETE" if is_finished else "PRUNED"],
            value=one.score if is_finished else None,
            # A pruned trial without a value is the worst.
            intermediate_values={one.epochs: one.score} if one.status == outcomes.DROPPED else {},
            params={
                key: choices.index(value) if kind == "choice" else value
                for (key, (kind, *choices)), value in pairs
            },
            distributions=space,
        )
        study.add_trial(trial)
    proposed = [study.ask(space).params for _ in range(count)]
    return [
        {
            key: choices[params[key]] if kind == "choice" else params[key]
            for key, (kind, *choices) in drawn
        }
        for params in proposed
    ]


def _distribution(kind: str, *bounds: Any) -> Any:
    """Returns a distribution of `sweep.draw` as Optuna's; choices are numbered."""
    from optuna import distributions

    if kind == "choice":
        return distributions.CategoricalDistribution(range(len(bounds)))
    if kind == "integer":
        return distributions.IntDistribution(*bounds)
    return distributions.FloatDistribution(*bounds, log=kind == "log_uniform")
