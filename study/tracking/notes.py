"""What MLflow's pages say about the experiment and each run, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study.spec.space import NONE

NOTE_TAG = "mlflow.note.content"  # MLflow shows it as the description of a run or an experiment

REPORT_NOTE = "The study's report, with its charts and tables, as artifacts. It is made from the other runs."

_RUNS = """\
**Runs** differ in their tag `kind`:

- `size`: an encoder size, the parent of all runs below. Its tag `best_trial` names the trial with the best dev score. Of a
  published encoder, `encoder` names it, and `seen` the targets on whose data it was trained before.
- `trial`: one choice of intermediate task and learning rates, trained on every target. Its tag `outcome` is `complete`,
  `stopped_early` or `failed`. Its tag `training_languages` names the languages besides English that its intermediate task
  has labelled training data in: gains there are not zero-shot. `unknown`: a published checkpoint's card does not state them.
- `repeat`: a trial again with another seed. Its tag `in_place_of` names the collapsed runs that it was made for.
- `benchmark`: a serving variant of the size's best model, timed. A `former benchmark` was replaced by a newer one.
- `report`: the report, under *Artifacts*. The output folder has it as `report.html`.

**Filters** for the runs table:

- `tags.best = 'true'`: the sizes' best trials and their benchmarks
- `tags.kind = 'trial' and tags.outcome = 'complete'`
- `tags.size = 'SIZE'`: everything of one size

*Views*, above the runs table, has two of these with their columns.

**Parameters**

- `lr_intermediate`, `lr_target`: the recipe's learning rates. A size trains at `rate_factor` times these, and a task can have a
  factor of its own.

**Metrics**

- `dev/score` (%): mean English dev score over the targets. The search maximises it.
- `test/score`, `test_without_english/score` (%): mean test score over targets and languages.
- `dev/TASK`, `test/TASK`, `test/TASK/LANGUAGE`, `chance/TASK` (%): one target. `constant/TASK`: in so many languages the model
  gives one answer to everything. `ceiling/TASK`, `ceiling/TASK/LANGUAGE`: the most that any model could score.
- `bench/p50_ms`, `bench/p90_ms`, `bench/p99_ms` (ms): latency of single queries.
- `bench/throughput_sps` (samples/s): at `bench/batch_size`.
- `bench/server_qps` (queries/s): load at which 99% of answers come within `bench/server_bound_ms`.
- `bench/peak_memory_mb`, `bench/rss_mb` (MB), `bench/cold_start_ms` (ms), `bench/energy_j_per_sample` (J/sample).
- `bench/flips_scored`, `bench/flips_batch`, `bench/flips_padding` (%): predictions for `bench/flips_examples` examples that
  differ from those for single queries: as they were scored, in batches of 32 of any length, by that padding alone.
- `params_m`, `params_body_m` (millions): parameters, and those without the embeddings.
"""


def experiment_note(name: str, targets: Sequence[str]) -> str:
    """What the experiment holds: kinds of runs, tags to filter by, metrics and units, and where the report is."""
    return (
        f"**Study {name}**: its runs, tags, metrics and report\n\n"
        f"Which encoder size, prepared by which intermediate task, scores best on {_listed(targets)}, and how fast does it "
        f"serve?\n\n{_RUNS}"
    )


def size_note(size: str) -> str:
    """The parent run of a size."""
    return f"Encoder size {size}: its trials, their repeats and the benchmarks of its best model are the child runs."


def trial_note(size: str, params: Mapping[str, Any]) -> str:
    """A trial of the search."""
    return f"Trial of size {size}: {_choice(params)}."


def repeat_note(size: str, params: Mapping[str, Any], *, of: str) -> str:
    """A trial's repeat with another seed."""
    return f"Repeat of trial {of} of size {size} with seed {params['seed']}: {_choice(params)}."


def benchmark_note(size: str, variant: str) -> str:
    """The benchmark of a variant."""
    return (
        f"Benchmark of serving variant {variant} of the best model of size {size}. `context.json` has its conditions."
    )


def _choice(params: Mapping[str, Any]) -> str:
    intermediate, rate = params["intermediate"], _rate(params, "lr_intermediate")
    first = "" if rate is None else f"trained on {intermediate} at learning rate {rate}, then "
    if intermediate == NONE:
        instead = ", without an intermediate task"
    else:
        instead = "" if rate is not None else f", with the arm {intermediate}"
    steps = "" if params.get("epochs", 1.0) == 1.0 else f" and {params['epochs']} times the usual steps"
    return f"{first}trained on each target at learning rate {_rate(params, 'lr_target')}{steps}{instead}, seed {params['seed']}"


def _rate(params: Mapping[str, Any], name: str) -> str | None:
    """The learning rate that the size trains at: the recipe's times the size's factor."""
    return None if params.get(name) is None else f"{params[name] * params.get('rate_factor', 1.0):g}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
