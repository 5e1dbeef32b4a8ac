"""An output folder that an earlier version of the code wrote resumes: nothing is trained, measured or tracked again.

`kept_output.tar.xz` holds the folder of a finished `tests/support/recipes.py:tiny`, written before the modules moved into
sub-packages, and the JSON document that the command printed. Left out is what a finished study does not read: reports, the
state of Ray, and all weights but those of the pre-trained encoders. Whether an unfinished stage resumes from an earlier
version's checkpoint is therefore not tested here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import analysis
from study.planning.stages import stages_of
from study.search.journal import open_journal
from study.search.sweep import load_result
from tests.support import recipes
from tests.support.commands import study_command
from tests.support.kept_output import KeptOutput, unpack
from trainables.stages.base import Stage
from trainables.store.stage_store import StageStore

# Keys whose values differ from run to run.
OF_A_RUN = {"output", "report", "wall_s", "all_runs_s", "seconds", "peak_memory_mb", "peak_memory_by_phase_mb"}


@pytest.fixture
def kept(tmp_path: Path) -> KeptOutput:
    return unpack(tmp_path)


def _stages(folder: Path) -> Iterator[Stage]:
    """Every stage that the folder's trials needed, as this version of the code identifies it."""
    study, journal = recipes.tiny(), open_journal(folder)
    for size in study.sizes:
        result, done = load_result(study, size, storage=journal)
        assert done
        for trial in result.trials:
            finished = int(trial.metrics["targets_finished"])
            for evaluation in study.chain(size, trial.choice)[:finished]:
                yield from stages_of(evaluation)


def test_every_stage_is_found_under_its_old_name(kept: KeptOutput) -> None:
    store = StageStore(kept.folder)
    assert {store.folder(stage).name for stage in _stages(kept.folder)} == set(kept.manifests())


def test_it_still_reports_without_what_was_not_recorded_then(kept: KeptOutput) -> None:
    """Earlier versions compared no batches and knew no ceilings of scores."""
    frames = analysis.load(f"sqlite:///{kept.folder / 'mlflow.db'}")
    assert len(frames.benchmarks) == 2
    assert frames.benchmarks["test_score"].notna().all()
    assert frames.benchmarks[["flips_scored", "flips_batch", "flips_padding", "flips_examples"]].isna().all(axis=None)
    assert frames.ceilings.empty
    page = analysis.write_report(frames, kept.folder / "report.html", exports=False).read_text(encoding="utf-8")
    assert "p50 latency (ms)" in page
    assert "single queries" not in page
    assert "No model could score 100" not in page


@pytest.mark.slow
def test_the_same_command_repeats_nothing(kept: KeptOutput) -> None:
    manifests, runs = kept.manifests(), kept.runs()
    benchmarks = {path: path.read_bytes() for path in kept.folder.glob("benchmarks/*.json")}
    assert len(benchmarks) == 2

    before = set(Path("/tmp/ray").glob("session_*"))  # one of a process that had the same id, perhaps

    command = study_command("run", "tests/support/recipes.py:tiny", "--output", str(kept.folder))

    assert command.code == 0, command.err
    assert "nothing to train or measure" in command.err
    assert set(Path("/tmp/ray").glob(f"session_*_{command.pid}")) <= before, "Ray was started"
    assert kept.manifests() == manifests
    assert {path: path.read_bytes() for path in kept.folder.glob("benchmarks/*.json")} == benchmarks
    assert kept.runs() == runs
    assert kept.experiment_tags()["mlflow.experimentKind"] == "custom_model_development"
    assert "tags.best = 'true'" in kept.experiment_tags()["mlflow.note.content"]
    assert (kept.folder / "report.html").is_file()
    new = {"peak_memory_by_phase_mb", "all_runs_s"}  # that version had neither, nor a size's `rate_factor`
    document = command.document
    assert document.keys() == kept.document.keys() | new
    assert [size.pop("rate_factor") for size in document["sizes"]] == [1.0, 1.0]
    assert _without(document, OF_A_RUN) == _without(kept.document, OF_A_RUN)


def _without(document: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in keys}
