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
from study.planning.plan import render_plan
from study.planning.search_cost import storage_of
from study.recipes.one_vs_ten_billion import one_vs_ten_billion
from study.recipes.quickstart import quickstart
from study.run.driver import RunOptions, run_study
from study.spec import BenchmarkPlan, PublishedAfter, Size, Study, merged
from tests.support import recipes
from tests.support.recipes import published_study
from trainables.data.source import DataError
from trainables.models.catalogue import published
from trainables.models.published_encoder import PublishedEncoder, pinned_encoder
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.stages.import_encoder import ImportEncoder
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.intermediate import MicroParaphrase, MicroTopic


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


def test_the_plan_says_who_chooses_the_trials_after_the_default_cells() -> None:
    study = recipes.tiny()
    assert "then trials that Optuna suggests (1 of 1x32, 0 of 1x64); ASHA" in "\n".join(_lines(study))
    front = "\n".join(_lines(dataclasses.replace(study, allocation="front")))
    assert "then at most so many trials that go where the front can move most (1 of 1x32, 0 of 1x64); ASHA" in front
    assert "Optuna" not in front


@pytest.mark.usefixtures("offline")
def test_tables_of_ten_billion_parameters_need_no_network() -> None:
    study = one_vs_ten_billion()
    architectures = {size.name: architecture_of(study, size) for size in study.sizes}
    sizes = _row(tables.sizes_table(study, architectures), "xlm-r-xxl")
    assert sizes["encoder"] == "facebook/xlm-roberta-xxl"
    assert (sizes["params"], sizes["embeddings"], sizes["body"]) == ("10695.95 M", "1029.71 M", "9666.24 M")
    assert sizes["workers"] == "4 x 8 CPU + 1 GPU 80 GB bf16"
    # 10.7 billion parameters: 16 bytes each alone; 20 / 4 each, and the token table with its gradients, shared by four; to
    # score 4 each with a layer of 4096 tokens, on each of the node's four.
    memory = _row(tables.memory_table(study, architectures), "xlm-r-xxl")
    assert (memory["ZeRO-0"], memory["ZeRO-3"], memory["scoring"]) == ("171.14", "61.70", "43.92 + 171.1")
    assert (memory["chosen"], memory["fits"]) == ("ZeRO-3", "yes")
    large = _row(tables.utilisation_table(study, architectures), "xlm-r-large")
    assert (large["card"], large["trials a card"], large["source"]) == ("GPU 80 GB bf16", "2", "assumed")
    assert large["tokens a micro-step"] == "2,541 to 9,645"  # 64 rows of XNLI's length, and of passages


@pytest.mark.usefixtures("offline")
def test_the_plan_counts_scoring_and_gives_hours_and_price_as_ranges() -> None:
    """Scoring XXL in fp32 takes about as long as training it in bf16: that must not be missing from a price."""
    study = one_vs_ten_billion().replace(sizes=("xlm-r-xxl",), trials=3)
    (size,) = study.sizes
    architectures = {size.name: architecture_of(study, size)}
    operations = _row(tables.operations_table(study, architectures), "scoring-xnli")
    assert operations["batch"] == "75,150 rows"
    low, high = (float(hours) for hours in operations["xlm-r-xxl"].removesuffix(" h").split(", ")[1].split(" to "))
    assert high == pytest.approx(2 * low, rel=0.1)
    cost = tables.cost_table(study, architectures, 2.0)
    row = _row(cost, "xlm-r-xxl")
    low, high = (float(value.replace(",", "")) for value in row["price"].split(" to "))
    assert 1 < high / low < 3
    hours = row["expected in all"].split(", ", 1)[1].removesuffix(" h").replace(",", "").split(" to ")
    assert [low, high] == pytest.approx([2 * float(value) for value in hours], rel=0.01)
    assert "GPU-hours expected; price" in str(cost.caption)


def test_the_stage_graph_has_the_choices_that_some_size_tries() -> None:
    study = quickstart()
    chosen = study.space.names[1]
    sizes = tuple(dataclasses.replace(size, trials=None, intermediates=None) for size in study.sizes)
    every = dataclasses.replace(study, sizes=sizes)
    for some, named in ((every, study.space.names[1:]), (every.replace(intermediates=(chosen,)), (chosen,))):
        lines = "\n".join(_lines(some))
        assert "stage graph of each size: " in lines
        assert [name for name in study.space.names[1:] if f"intermediate-{name} " in lines] == list(named)


@pytest.mark.usefixtures("offline")
def test_the_plan_names_what_it_lacks_and_what_does_not_fit() -> None:
    study = one_vs_ten_billion().replace(trials=3)  # only default cells, so that no search is simulated
    lines = _lines(study)

    def starting(start: str) -> list[str]:
        return [line for line in lines if line.startswith(start)]

    assert "benchmark of each size's best model: fp32, bf16, on a GPU of 80 GB" in lines
    assert starting("not pinned yet, which a run requires: mlqa: the hub does not answer")
    assert starting(
        "training computes padding: xlm-r-large, xlm-r-xl, xlm-r-xxl (unpad is off; it has not been run on a GPU"
    )
    assert starting("training computes padding: mt5-large, mt5-xl, mt5-xxl (its attention adds a learned bias")
    assert [line for line in lines if "span nodes" in line] == [
        "xlm-r-xxl: 4 workers with 1 GPU each: one node needs 4 GPUs and 32 cores, else they span nodes",
        "mt5-xxl: 2 workers with 1 GPU each: one node needs 2 GPUs and 16 cores, else they span nodes",
    ]
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


def test_bf16_without_tensor_cores_is_pointed_out() -> None:
    study = recipes.inline()
    size = dataclasses.replace(study.sizes[0], resources=Resources(gpus=1, accelerator_type="T4"))
    mixed = dataclasses.replace(study.tuning, precision="bf16_mixed")
    study = dataclasses.replace(study, sizes=(size,))
    warning = "bf16 on T4: 1x32; it has no tensor cores for bf16"
    assert [line for line in _lines(dataclasses.replace(study, tuning=mixed)) if line.startswith(warning)]
    assert not [line for line in _lines(study) if line.startswith("bf16 on")]


@pytest.mark.usefixtures("offline")
def test_a_plan_on_80_columns_keeps_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    study = one_vs_ten_billion().replace(trials=3)
    lines = _lines(study, 80)
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "params 10695.95 M; embeddings 1029.71 M; body 9666.24 M" in text
    assert "scoring 43.92 + 171.1" in text
    assert "trials a card 2; tokens a micro-step 2,541 to 9,645; MFU" in text
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


@pytest.mark.usefixtures("offline")
def test_arms_are_explained() -> None:
    topic, paraphrase = MicroTopic(**recipes.SMALL), MicroParaphrase(**recipes.SMALL)
    study = recipes.inline()
    space = dataclasses.replace(study.space, intermediates=(topic, paraphrase, *merged("mean", (topic, paraphrase))))
    lines = _lines(dataclasses.replace(study, space=space, trials=4))
    explained = [line for line in lines if "micro_topic + micro_paraphrase: trained one by one, then averaged" in line]
    assert len(explained) == 1
    size = Size("base", pinned_encoder(published("xlm-r-base")), Resources())
    arm = PublishedAfter("e5", (("base", pinned_encoder(published("e5-base"))),))
    study = published_study(size)
    space = dataclasses.replace(study.space, intermediates=(arm,))
    study = dataclasses.replace(study, space=space, trials=2)
    architecture = architecture_of(study, size)
    trained = sum(task.trained for task in study.targets)
    models = storage_of(study, size, architecture).all_end * 1e9 / (4 * architecture.count.total)
    assert models == pytest.approx(2 + 2 * trained), "both checkpoints, and the targets' models of two cells"
    lines = _lines(study)
    starts = [line for line in lines if line.startswith("base, e5: ")]
    assert "starts from intfloat/multilingual-e5-base at d13f1b27baf31030b7fd040960d60d909913633f" in starts[0]
    assert starts[1] == (
        "base, e5: heads over whole rows read the mean over tokens; "
        "in retrieval, queries begin with 'query: ' and passages with 'passage: '"
    )
    assert "trained on data of these targets before, and their scores are marked: micro_bitext (bitext)" in starts[2]


def test_the_plan_says_what_models_take_on_disk() -> None:
    """Without sampled trials nothing is left to chance: an intermediate model, and the trained targets of two cells."""
    study = dataclasses.replace(recipes.inline(), trials=2)
    (size,) = study.sizes
    architecture = architecture_of(study, size)
    model = 4 * architecture.count.total / 1e9
    needs = storage_of(study, size, architecture)
    root, intermediate, targets = 1, 1, 2  # of three targets one is not trained
    assert needs.all_end == pytest.approx((root + intermediate + 2 * targets) * model)
    assert needs.best_end == pytest.approx((root + intermediate + 2 * targets) * model)  # the best and the baseline
    topic, paraphrase = MicroTopic(**recipes.SMALL), MicroParaphrase(**recipes.SMALL)
    arms = dataclasses.replace(study.space, intermediates=(topic, paraphrase, *merged("merged", (topic, paraphrase))))
    both = storage_of(dataclasses.replace(study, space=arms, trials=4), size, architecture)
    assert both.all_end == pytest.approx((root + 2 + 1 + 4 * targets) * model), "a merge is a model as well"
    assert both.best_end == pytest.approx((root + 2 + 1 + 2 * targets) * model)
    more = storage_of(dataclasses.replace(study, trials=3), size, architecture)
    assert more.all_end > needs.all_end
    assert more.best_end == needs.best_end
    assert needs.best_peak - needs.best_end == pytest.approx((3 + targets) * model)  # a checkpoint, and a running trial
    assert any(line.startswith("models on disk, 1x32: ") and "--keep best" in line for line in _lines(study))
