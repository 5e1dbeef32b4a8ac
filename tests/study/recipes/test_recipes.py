"""The large recipes: their parts, and that their sizes fit the devices they ask for; all without a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from study.planning import memory
from study.planning.accelerators import ACCELERATORS
from study.planning.architecture import architecture_of
from study.planning.stages import training_stages
from study.recipes import load_recipe
from study.recipes.laptop import laptop, laptop_rates
from study.recipes.one_vs_ten_billion import one_vs_ten_billion
from study.recipes.xtreme_r import xtreme_r
from study.spec import InvalidStudy, Mixture
from study.spec.data_check import seen_flags
from trainables.stages.mixture import FineTuneMixture
from trainables.tasks.suites import XTREME_R


@pytest.mark.usefixtures("offline")
def test_xtreme_r_has_the_whole_benchmark_and_names_missing_data() -> None:
    study = xtreme_r()
    assert {task.name: sorted(task.languages) for task in study.targets} == {
        task.name: sorted(task.languages) for task in XTREME_R.tasks
    }
    assert [size.name for size in study.sizes] == ["xlm-r-base", "xlm-r-large"]
    for size in study.sizes:  # five alternatives of CommonsenseQA among the longest rows of all_english
        assert memory.memory_verdict(study, size, architecture_of(study, size)) == "yes"
    lines = study.unpinned
    assert len(lines) == len(set(lines))
    needs_files = {line.split(":")[0] for line in lines if "not all on the hub" in line}
    assert needs_files == {"lareqa", "mewslix", "ewt_xpos"}
    stages = training_stages(study, study.sizes[1])
    english, masked = (stages[f"intermediate-{name}"][0] for name in ("all_english", "mnli_masked_lm"))
    assert isinstance(english, FineTuneMixture)
    assert isinstance(masked, FineTuneMixture)
    assert len(english.task.tasks) == 8
    assert english.training.max_length == 384  # that of its question answering
    assert masked.task.tasks[1].languages == XTREME_R.languages
    assert english.training.steps == masked.training.steps == 12_000
    # 10 epochs of 21,253 sentences in batches of 32 at 2e-5; 3 epochs of 87,599 questions at 3e-5. XQuAD trains on SQuAD, so
    # its training is among those of the intermediate task SQuAD.
    tagging = stages["target-udpos"][0].training
    assert (tagging.learning_rate, tagging.steps) == (2e-5, 6642)
    squad = {(round(stage.training.learning_rate, 9), stage.training.steps) for stage in stages["intermediate-squad"]}
    assert (3e-5, 8212) in squad


@pytest.mark.usefixtures("offline")
def test_one_vs_ten_billion_fits_its_cards() -> None:
    study = one_vs_ten_billion()
    for size in study.sizes:
        assert size.resources.accelerator_type in ACCELERATORS
        assert memory.memory_verdict(study, size, architecture_of(study, size)) == "yes"
    largest = study.size("xlm-r-xxl")
    xxl = architecture_of(study, largest)
    assert xxl.count.total > 10**10

    def verdict(**changes: Any) -> str:
        resources = dataclasses.replace(largest.resources, **changes)
        return memory.memory_verdict(study, dataclasses.replace(largest, resources=resources), xxl)

    assert verdict(workers=1) == "NO"
    assert verdict(workers=1, offload="parameters") == "yes"
    # Training would fit in 20 of its 40 GB, but scoring needs all 42.8 GB of the weights.
    assert verdict(accelerator_type="A100-40G", offload="optimizer") == "NO (scoring)"
    assert verdict(accelerator_type="A100-40G", offload="parameters") == "NO (scoring)"
    assert verdict(accelerator_type="M3") == "unknown card"
    card = study.benchmark.accelerator_type
    assert card is not None
    assert all(memory.serving_fits(architecture_of(study, size), "fp32", card) for size in study.sizes)
    assert memory.serving_gb(xxl, "fp32") == pytest.approx(42.8, abs=0.05)
    assert memory.serving_fits(xxl, "fp32", "A10G") is False
    assert memory.serving_fits(xxl, "bf16", "L40S") is True
    assert memory.serving_fits(xxl, "fp32", "TPU-V4") is None
    rates = {size.name: training_stages(study, size)["target-panx"][0].training.learning_rate for size in study.sizes}
    assert rates["mt5-xl"] == 10 * rates["xlm-r-xl"] == 1e-4


@pytest.mark.usefixtures("offline")
def test_laptop_trains_every_cell_with_three_seeds_and_sizes_of_one_checkpoint() -> None:
    study = laptop()
    cells = study.space.defaults()
    assert study.budget(study.sizes[0]) == len(cells) == study.space.choice_count == 8
    assert study.first_rung == len(study.targets) == 8  # ASHA never stops a trial
    assert study.repeats is not None
    assert study.repeats.top == len(cells)
    assert [repeat.seed for repeat in study.repeats_of(cells[0])] == [1, 2]
    shapes = [architecture_of(study, size).count for size in study.sizes]
    layer = shapes[1].body - shapes[0].body
    assert [shape.body - shapes[0].body for shape in shapes] == [0, layer, 3 * layer]  # 3, 6 and 12 layers
    assert len({shape.embeddings for shape in shapes}) == 1
    mixture = study.space.intermediates[-1]
    assert isinstance(mixture, Mixture)
    assert mixture.tasks == study.space.intermediates[:-1]
    questions = {stage.training.steps for stage in training_stages(study, study.sizes[0])["target-tydiqa"]}
    assert questions == {120}


@pytest.mark.usefixtures("offline")
def test_laptop_marks_what_its_encoder_has_seen() -> None:
    seen = seen_flags(laptop())["12l"]
    assert seen["xnli_from_cad_nli"] == "snli"
    assert seen["tatoeba"] == "bitext"
    assert {"udpos", "uner_dev_as_train", "xcopa_from_copa"}.isdisjoint(seen)


@pytest.mark.usefixtures("offline")
def test_the_rates_of_laptop_are_searched_without_an_intermediate_task() -> None:
    rates, study = laptop_rates(), laptop()
    assert isinstance(rates.space.lr_target, tuple)
    assert isinstance(study.space.lr_target, tuple)
    assert rates.space.names == ("none",)
    assert rates.budget(rates.sizes[0]) == len(rates.space.lr_target) == 4
    assert rates.targets == study.targets
    assert study.space.lr_target[0] in rates.space.lr_target


def test_a_value_that_a_recipe_may_not_hold_is_an_invalid_study(tmp_path: Path) -> None:
    """An unknown family is refused where the encoder is built, before there is a study."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from study.spec import PublishedEncoder\n\ndef mine():\n    PublishedEncoder('e', 'org/e', family='gpt')\n"
    )
    with pytest.raises(InvalidStudy, match=r"mine.py:mine: e: no family 'gpt'; use one of .*xlm-roberta"):
        load_recipe(f"{path}:mine")
