"""What `plan` prints; all without a network."""

from __future__ import annotations

import dataclasses
import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from study.errors import CannotRun
from study.planning import plan, tables
from study.planning.architecture import architecture_of
from study.planning.operations import stage_hours
from study.planning.plan import render_plan
from study.planning.stages import training_stages
from study.recipes.one_vs_ten_billion import one_vs_ten_billion
from study.run.driver import RunOptions, run_study
from study.spec import BenchmarkPlan, Size, Study
from tests.support import recipes
from tests.support.recipes import published_study
from trainables.data.source import DataError
from trainables.models.published_encoder import PublishedEncoder, pinned_encoder
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.stages.import_encoder import ImportEncoder
from trainables.store.stage_store import StageStore


def _lines(study: Study, columns: int = 300) -> list[str]:
    """The plan as it is printed on so many columns."""
    console = Console(width=columns, record=True, file=StringIO())
    console.print(render_plan(study))
    return [line.rstrip() for line in console.export_text().splitlines()]


def _row(table: Table, name: str) -> dict[str, str]:
    """The cells of the row that begins with the name, by column."""
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    number = next(iter(columns.values())).index(name)
    return {header: cells[number] for header, cells in columns.items()}


@pytest.mark.usefixtures("offline")
def test_tables_of_ten_billion_parameters_need_no_network() -> None:
    study = one_vs_ten_billion()
    architectures = {size.name: architecture_of(study, size) for size in study.sizes}
    sizes = _row(tables.sizes_table(study, architectures), "xlm-r-xxl")
    assert sizes["encoder"] == "facebook/xlm-roberta-xxl"
    assert (sizes["params"], sizes["embeddings"], sizes["body"]) == ("10695.95 M", "1029.71 M", "9666.24 M")
    assert sizes["workers"] == "8 x 8 CPU + 1 H100"
    # 10.7 billion parameters: 16 bytes each alone; 20 / 8 each, and the token table with its gradients, shared by eight; to
    # score 4 each with a layer of 4096 tokens, on each of the node's eight.
    memory = _row(tables.memory_table(study, architectures), "xlm-r-xxl")
    assert (memory["ZeRO-0"], memory["ZeRO-3"], memory["scoring"]) == ("171.14", "34.96", "43.92 + 342.3")
    assert (memory["chosen"], memory["fits"]) == ("ZeRO-3", "yes")


@pytest.mark.usefixtures("offline")
def test_the_plan_names_what_it_lacks_and_what_does_not_fit() -> None:
    study = one_vs_ten_billion().replace(trials=3)  # only default cells, so that no search is simulated
    lines = _lines(study)

    def starting(start: str) -> list[str]:
        return [line for line in lines if line.startswith(start)]

    assert "benchmark of each size's best model: fp32, bf16, on H100" in lines
    assert starting("not pinned yet, which a run requires: mlqa: the hub does not answer")
    assert starting(
        "training computes padding: xlm-r-large, xlm-r-xl, xlm-r-xxl (unpad is off; it has not been run on a GPU"
    )
    assert starting("training computes padding: mt5-large, mt5-xl, mt5-xxl (its attention adds a learned bias")
    assert starting("xlm-r-xxl: facebook/xlm-roberta-xxl at 03e0fb540c3c9afd4bdda0072e7cb82d2eafd060: ")
    small = BenchmarkPlan(("fp32", "bf16"), accelerator_type="A10G")
    lines = _lines(dataclasses.replace(study, benchmark=small))
    refused = starting("benchmark of ")
    assert "benchmark of xlm-r-xxl fp32: NO, 42.8 GB of weights do not fit A10G" in refused
    assert not [line for line in refused if "mt5-large" in line]


@pytest.mark.usefixtures("offline")
def test_an_encoder_without_a_known_commit_can_be_planned_but_not_run(tmp_path: Path) -> None:
    """The hub is out of reach, and the recipe names no commit."""
    study = published_study(Size("x", pinned_encoder(PublishedEncoder("x", "someone/nowhere", "bert")), Resources()))
    assert [line.split(":")[0] for line in study.unpinned] == ["someone/nowhere"]
    with pytest.raises(CannotRun, match="someone/nowhere"):
        run_study(study, RunOptions(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="is unavailable from the hub"):
        ensure(
            ImportEncoder(PublishedEncoder("x", "someone/nowhere", "bert", "0" * 40)),
            Workplace(StageStore(tmp_path / "out")),
        )


def test_bf16_without_tensor_cores_is_pointed_out_and_hours_follow_the_precision() -> None:
    study = recipes.inline()
    size = dataclasses.replace(study.sizes[0], resources=Resources(gpus=1, accelerator_type="T4"))
    mixed = dataclasses.replace(study.tuning, precision="bf16_mixed")
    study = dataclasses.replace(study, sizes=(size,))
    warning = "bf16 on T4: 1x32; it has no tensor cores for bf16"
    assert [line for line in _lines(dataclasses.replace(study, tuning=mixed)) if line.startswith(warning)]
    assert not [line for line in _lines(study) if line.startswith("bf16 on")]
    architecture = architecture_of(study, size)
    stage = training_stages(study, size)["target-micro_tagging"][0]
    on_h100 = Resources(gpus=1, accelerator_type="H100")
    fp32, bf16 = (
        stage_hours(architecture, dataclasses.replace(stage, training=training), on_h100)
        for training in (study.tuning, mixed)
    )
    assert fp32 is not None
    assert bf16 is not None
    assert fp32 == pytest.approx(bf16 * 989 / 67)


@pytest.mark.usefixtures("offline")
def test_a_plan_on_80_columns_keeps_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    study = one_vs_ten_billion().replace(trials=3)
    lines = _lines(study, 80)
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "params 10695.95 M; embeddings 1029.71 M; body 9666.24 M" in text
    assert "scoring 43.92 + 342.3" in text
    wide = [line for line in _lines(study) if "10695.95 M" in line]
    assert len(wide) == 1, "a table, where it fits"


def test_the_plan_says_what_a_cpu_worker_takes_and_how_many_trials_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    study = recipes.inline()
    (size,) = study.sizes
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)))
    told = {}
    for free_gb, resources in ((9.0, Resources(memory_gb=3.0)), (3.0, Resources(memory_gb=3.0)), (9.0, Resources())):
        monkeypatch.setattr(plan, "available_memory", lambda gb=free_gb: (gb * 1e9, None))
        sized = dataclasses.replace(study, sizes=(dataclasses.replace(size, resources=resources),))
        told[free_gb, resources.memory_gb] = [line for line in _lines(sized) if "a worker on CPUs takes" in line]
    start = f"{size.name}: a worker on CPUs takes up to"
    assert told[9.0, 3.0] == [
        f"{start} 3.0 GB of memory; on this machine (4 cores, 8.0 GB free beside Ray) 2 trials at once"
    ]
    assert "(4 cores, 2.0 GB free beside Ray) one trial at a time, which may run out: " in told[3.0, 3.0][0]
    assert told[3.0, 3.0][0].endswith("use a smaller micro_batch, or set memory_gb if the estimate is too high")
    assert told[9.0, None][0].endswith("4 trials at once")


def test_the_table_of_memory_is_of_sizes_on_gpus() -> None:
    """What a worker on CPUs takes has a line of its own, with other figures."""
    (size,) = recipes.inline().sizes
    on_gpu = dataclasses.replace(size, name="on-gpu", resources=Resources(gpus=1))
    title = "memory of a worker in GB on its GPU"
    study = dataclasses.replace(recipes.inline(), sizes=(size, on_gpu))
    architectures = {each.name: architecture_of(study, each) for each in study.sizes}
    (column, *_) = tables.memory_table(study, architectures).columns
    assert list(column.cells) == ["on-gpu"]
    assert title in "\n".join(_lines(study))
    assert title not in "\n".join(_lines(recipes.inline()))
