"""`clean` on the kept output folder: which models it lists and removes, and which it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from study.cli.app import app
from study.console import Console, Timeline
from study.run.cleaning import Cleaner
from study.run.output_folder import locked
from study.search.callback import TrialLog
from study.search.journal import open_journal
from study.search.records import SearchResult
from study.search.sweep import load_result
from study.tracking.tracker import Tracker, default_uri
from tests.support import recipes
from tests.support.commands import study_command
from tests.support.kept_output import with_weights
from trainables.stages.evaluate import Evaluate
from trainables.store.removal import SUFFIX
from trainables.store.stage_store import StageStore


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The kept folder, with bytes in place of the weights that it lacks."""
    return with_weights(tmp_path)


def record_again(output: Path) -> None:
    """What a run of the same command does to the records of trials that are finished."""
    study = recipes.tiny()
    with Tracker(default_uri(output), study.name, output=output, offline=True) as tracker:
        for size in study.sizes:
            TrialLog(study, size, tracker, Console(Timeline())).log_missing(_result(output, size.name))


def _result(output: Path, size: str) -> SearchResult:
    study = recipes.tiny()
    result, _ = load_result(study, study.size(size), storage=open_journal(output))
    return result


def chains(output: Path, *, best: bool) -> list[Evaluate]:
    """The evaluations of the trials that the benchmark reads, or of the others as far as they came."""
    study, found = recipes.tiny(), list[Evaluate]()
    for size in study.sizes:
        result = _result(output, size.name)
        wanted = {trial.trial_id for trial in (result.best, result.baseline) if trial is not None}
        for trial in result.trials:
            if (trial.trial_id in wanted) == best:
                finished = int(trial.metrics["targets_finished"])
                found += study.chain(size, trial.choice)[:finished]
    return found


def trained(output: Path, *, best: bool) -> set[str]:
    """The names of the targets' models of these trials."""
    store = StageStore(output)
    return {store.folder(evaluate.model).name for evaluate in chains(output, best=best) if evaluate.task.trained}


def weights(output: Path) -> set[str]:
    """The names of stages with weights."""
    return {path.relative_to(output / "stages").parts[0] for path in output.glob(f"stages/**/*{SUFFIX}")}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_clean_lists_and_then_removes_models_of_other_trials(output: Path) -> None:
    record_again(output)
    before, others, kept = weights(output), trained(output, best=False), trained(output, best=True)
    assert others
    assert not others & kept
    listed = run("clean", output)
    assert listed.exit_code == 0, listed.output
    assert {line.split("  ")[0] for line in listed.stdout.splitlines() if "target-" in line} == others
    assert "--yes removes them" in listed.stdout
    assert weights(output) == before

    removed = run("clean", output, "--yes")
    assert removed.exit_code == 0, removed.output
    assert f"{len(others)} models removed" in removed.stdout
    assert weights(output) == before - others
    assert kept <= weights(output)
    store = StageStore(output)
    assert all(store.find_intact(evaluate) is not None for evaluate in chains(output, best=False)), "scores stay"
    assert "nothing to remove" in run("clean", output).stdout


def test_trials_of_an_earlier_version_are_left_alone_until_their_stages_are_recorded(output: Path) -> None:
    cleaned = run("clean", output, "--yes")
    assert cleaned.exit_code == 0, cleaned.output
    assert "trials are left alone" in cleaned.stdout
    assert "0 models removed" in cleaned.stdout
    record_again(output)
    assert Cleaner(output).superfluous(open_journal(output)).stages


def test_a_model_whose_evaluation_is_not_finished_stays(output: Path) -> None:
    record_again(output)
    store, evaluation = StageStore(output), next(e for e in chains(output, best=False) if e.task.trained)
    (store.folder(evaluation) / "examples.parquet").unlink()
    model = store.folder(evaluation.model).name
    names = {stage.name for stage in Cleaner(output).superfluous(open_journal(output)).stages}
    assert names == trained(output, best=False) - {model}


def test_a_folder_in_use_and_one_without_trials_are_refused(output: Path, tmp_path: Path) -> None:
    with locked(output):
        ran = run("clean", output)
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
    assert "another run is using it" in ran.stderr
    ran = run("clean", tmp_path)
    assert ran.exit_code == 2
    assert "no optuna.journal" in ran.stderr


def test_results_without_weights_can_be_exported_and_verified(output: Path, tmp_path: Path) -> None:
    record_again(output)
    run("clean", output, "--yes")
    bundle = tmp_path / "bundle.zip"
    assert run("export", output, bundle, "--weights").exit_code == 0
    assert run("verify", bundle).exit_code == 0


@pytest.mark.slow
def test_a_run_that_keeps_the_best_removes_the_others_and_one_that_keeps_all_none(output: Path) -> None:
    """Of a finished study, so nothing is trained; its trials of an earlier version are recorded first."""
    arguments = ("run", "tests/support/recipes.py:tiny", "--output", str(output))
    before = weights(output)
    assert study_command(*arguments).code == 0
    assert weights(output) == before
    others = trained(output, best=False)
    command = study_command(*arguments, "--keep", "best")
    assert command.code == 0, command.err
    assert f"removed {len(others)} models that are no longer needed" in command.err
    assert weights(output) == before - others
