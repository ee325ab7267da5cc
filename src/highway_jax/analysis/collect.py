"""Restores the best highway nets of a run and evaluates them, intact and with lesions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from highway_jax.analysis import restore, trained_nets
from highway_jax.errors import UserError
from highway_jax.runs.experiment import load_data
from highway_jax.storage.findings import Findings
from highway_jax.storage.summaries import summarize_search
from highway_jax.sweep import outcomes
from highway_jax.sweep.trials import Batch, Trial
from highway_jax.training import trial_mesh
from highway_jax.training.program import Program

NUM_SAMPLES = 20


class Options(NamedTuple):
    """How many examples an analysis uses.

    Attributes:
        num_examples: Training examples that lesions are evaluated on; 0 for all.
        num_pair_examples: Training examples that lesions of two layers are evaluated on; 0 to
            leave these out.
        sample_seed: Seed that draws the examples whose gates and outputs are saved one by one.
        batch_size: Examples evaluated together; 0 for the run's `evaluation.batch_size`.
    """

    num_examples: int = 0
    num_pair_examples: int = 2000
    sample_seed: int = 0
    batch_size: int = 0


DEFAULTS = Options()


def analyze(
    workdir: Path, chosen: Sequence[int] = (), options: Options = DEFAULTS
) -> dict[int, Findings]:
    """Analyzes trained nets of a run.

    Args:
        workdir: The run's directory.
        chosen: Indices of the trials. If empty, the finished trial with the smallest training loss
            of each case of highway nets at each point of the grid.
        options: How many examples to use.

    Returns:
        The findings by trial.

    Raises:
        UserError: If the run or a trial does not exist, is not finished, or has no highway gates,
            or if the settings of a retrained trial are unknown.
    """
    saved = restore.read(workdir)
    rows = _choose(saved.config, saved.rows, chosen, workdir)
    for row in rows:
        if row["trial"] not in saved.trials:
            raise UserError(
                f"workdir is {str(workdir)!r}; allowed: a run whose results.csv has a row for"
                f" each trial of the cell that trial {row['trial']} retrains: its settings are"
                " unknown without them; start the run again to train those that are missing"
            )
    runtime: Any = saved.config.runtime
    trial_mesh.use_cores(runtime.devices)
    found = {}
    for name in dict.fromkeys(row["batch"] for row in rows):
        wanted = [row["trial"] for row in rows if row["batch"] == name]
        found |= _analyze_batch(saved, name, wanted, options)
    return found


def _choose(
    config: ConfigDict, rows: list[dict[str, Any]], chosen: Sequence[int], workdir: Path
) -> list[dict[str, Any]]:
    ready = [
        row for row in rows if row["block"] == "highway" and row["status"] == outcomes.FINISHED
    ]
    numbers = [row["trial"] for row in ready]
    for index in chosen:
        if index not in numbers:
            allowed = ", ".join(map(str, numbers)) or "none of this run yet"
            raise UserError(f"--trial is {index}; allowed: a finished highway net ({allowed})")
    if not ready:
        raise UserError(
            f"workdir is {str(workdir)!r}; allowed: a run with a highway net that is finished"
        )
    if chosen:
        return [row for row in ready if row["trial"] in chosen]
    # A dense net of one layer has no highway block.
    return summarize_search([row for row in ready if row["depth"] > 1] or ready, config)


def _analyze_batch(
    saved: restore.Saved, name: str, indices: list[int], options: Options
) -> dict[int, Findings]:
    wanted = [saved.trials[index] for index in indices]
    batch = Batch(name, tuple(wanted), 0, 0, True)
    data: Any = batch.config.data
    dataset = load_data(data)
    restore.check_data(saved, dataset)
    program = Program(batch, dataset)
    numbers = batch.hyperparameters()
    params = restore.params(saved, name, indices, program.model)
    nets = trained_nets.Nets(program, params, options.batch_size)

    rng = np.random.default_rng(options.sample_seed)
    count = min(NUM_SAMPLES, dataset.train.size)
    index = rng.choice(dataset.train.size, count, replace=False)
    gates = nets.gates()
    arrays = _lesions(nets, options) | gates._asdict()
    arrays |= {"biases": nets.biases(), "mean": gates.mean}
    arrays |= {f"sample_{name}": a for name, a in nets.samples(index)._asdict().items()}
    examples = options.num_examples or dataset.train.size
    common = {
        "class_names": np.asarray(dataset.class_names),
        "sample_image": dataset.train.images[index],
        "num_examples": min(examples, dataset.train.size),
        "num_pair_examples": min(options.num_pair_examples, dataset.train.size),
    }
    found = {}
    for i, trial in enumerate(wanted):
        own = {key: value[i] for key, value in arrays.items()}
        own["biases_before"] = own["biases"] * 0 + numbers.transform_bias[i]
        found[trial.index] = Findings(title=_title(trial), **own, **common)
    return found


def _lesions(nets: trained_nets.Nets, options: Options) -> dict[str, np.ndarray]:
    """Returns losses and errors of each kind of lesion as arrays [nets, 2, ...]."""
    num = nets.num_blocks
    kinds = {
        "intact": np.full((1, num), np.nan),
        "shut": trained_nets.single_lesions(num, 0),
        "opened": trained_nets.single_lesions(num, 1),
        "shut_to": trained_nets.range_lesions(num, from_here=False),
        "shut_from": trained_nets.range_lesions(num, from_here=True),
    }

    def evaluate(gates, num_examples):
        sums = nets.lesion(gates, num_examples=num_examples)
        return np.stack([sums.mean_loss, 1 - sums.accuracy], axis=1)

    together = evaluate(np.concatenate([*kinds.values()]), options.num_examples)
    ends = np.cumsum([len(gates) for gates in kinds.values()])
    values = dict(zip(kinds, np.split(together, ends[:-1], axis=-1), strict=True))
    values["intact"] = values["intact"][..., 0]
    pairs = np.full((nets.num_nets, 2, num, num), np.nan)
    if options.num_pair_examples:
        rows, columns = np.triu_indices(num)
        values_of_pairs = evaluate(trained_nets.pair_lesions(num), options.num_pair_examples)
        pairs[..., rows, columns] = pairs[..., columns, rows] = values_of_pairs
    return values | {"pairs": pairs}


def _title(trial: Trial) -> str:
    settings = trial.settings
    net = settings["model.architecture"]
    shape = f"{settings['model.depth']} layers of {settings['model.width']}"
    return f"{settings['data.name']}, {shape if net == 'dense' else net}, seed {trial.seed}"
