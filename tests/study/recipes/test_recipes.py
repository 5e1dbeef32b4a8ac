"""The large recipes: their parts, and that their sizes fit the devices they ask for; all without a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study.cluster.capacity import Capacity, NodeGroup
from study.cluster.gpus import with_accelerators
from study.planning import memory
from study.planning.architecture import architecture_of
from study.planning.layout import fewest_gpus
from study.planning.operations import load_share, tokens_a_micro_step
from study.planning.stages import all_loads, scoring_rows, training_stages
from study.recipes import load_recipe
from study.recipes.laptop import laptop, laptop_rates
from study.recipes.mt0_vs_mt5 import mt0_vs_mt5
from study.recipes.one_vs_ten_billion import one_vs_ten_billion, one_vs_ten_billion_one_gpu
from study.recipes.xtreme_r import xtreme_r, xtreme_r_one_gpu
from study.spec import InvalidStudy, Mixture, Study
from study.spec.data_check import seen_flags, seen_flags_of_arms
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
        assert memory.memory_verdict(study, size, architecture_of(study, size)) == "yes"
    largest = study.size("xlm-r-xxl")
    xxl = architecture_of(study, largest)
    assert xxl.count.total > 10**10

    def verdict(**changes: Any) -> str:
        resources = dataclasses.replace(largest.resources, **changes)
        return memory.memory_verdict(study, dataclasses.replace(largest, resources=resources), xxl)

    assert verdict(workers=1) == "NO"
    assert verdict(workers=1, offload="parameters") == "yes"
    # Training would fit in 36 of the 40 GB, but scoring needs all 42.8 GB of the weights.
    for asked in ({"accelerator_type": "A100-40G"}, {"gpu_memory_gb": 40.0}):
        assert verdict(**asked, micro_batch=4, workers=8, offload="optimizer") == "NO (scoring)"
    assert verdict(accelerator_type="A100-40G", offload="parameters") == "NO (scoring)"
    assert verdict(accelerator_type="M3") == "unknown card"
    assert study.benchmark.gpu_memory_gb == 80
    assert all(memory.serving_fits(architecture_of(study, size), "fp32", "H100") for size in study.sizes)
    assert memory.serving_gb(xxl, "fp32") == pytest.approx(42.8, abs=0.05)
    assert memory.serving_fits(xxl, "fp32", "A10G") is False
    assert memory.serving_fits(xxl, "bf16", "L40S") is True
    assert memory.serving_fits(xxl, "fp32", "TPU-V4") is None
    rates = {size.name: training_stages(study, size)["target-panx"][0].training.learning_rate for size in study.sizes}
    assert rates["mt5-xl"] == 10 * rates["xlm-r-xl"] == 2e-4


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("recipe", [xtreme_r, xtreme_r_one_gpu, one_vs_ten_billion, mt0_vs_mt5])
def test_every_size_has_the_fewest_gpus_that_hold_it(recipe: Callable[[], Study]) -> None:
    """The numbers in the recipes are those that `fewest_gpus` finds."""
    study = recipe()
    for size in study.sizes:
        architecture = architecture_of(study, size)
        length, layers_kept = scoring_rows(study, size)
        chosen = fewest_gpus(
            architecture, all_loads(study, size), size.resources, scored_length=length, layers_kept=layers_kept
        )
        assert chosen == size.resources, size.name


@pytest.mark.usefixtures("offline")
def test_the_batches_of_one_vs_ten_billion_fill_its_gpus() -> None:
    """Version 1 had 160 to 320 real tokens for each GPU of the largest size."""
    study = one_vs_ten_billion()
    assert study.version == 2
    for size in study.sizes:
        architecture = architecture_of(study, size)
        loads = all_loads(study, size)
        shares = [load_share(architecture, load, size.resources) for load in loads]
        assert min(tokens_a_micro_step(load, size.resources) for load in loads) > 1000, size.name
        assert all(share is not None and share.usual > 0.2 for share in shares), size.name
    tydiqa = training_stages(study, study.sizes[0])["target-tydiqa"][0].training
    # Three epochs of 3,696 questions in batches of 128, warmed up over as many examples as 500 batches of 32.
    assert (tydiqa.steps, tydiqa.warmup) == (87, 0.5)
    # XQuAD and MLQA train on SQuAD, like the intermediate task.
    squad = training_stages(study, study.sizes[0])["intermediate-squad"]
    assert 125 / 2053 in [pytest.approx(stage.training.warmup) for stage in squad if stage.training.steps == 2053]


@pytest.mark.usefixtures("offline")
def test_variants_for_one_gpu_are_the_same_studies() -> None:
    """Their stages are those of the studies for clusters, and one card of 80 GB holds a trial of each size."""
    one_card = Capacity((NodeGroup("one", {"CPU": 16.0, "GPU": 1.0, "accelerator_type:H100": 1.0}, 1),))
    for whole, variant in ((xtreme_r(), xtreme_r_one_gpu()), (one_vs_ten_billion(), one_vs_ten_billion_one_gpu())):
        assert dataclasses.replace(variant, sizes=whole.sizes) == whole
        for size in with_accelerators(variant.sizes, capacity=one_card):
            assert size.encoder == whole.size(size.name).encoder
            assert one_card.max_trials(size.resources) >= 1
            assert memory.memory_verdict(variant, size, architecture_of(variant, size)) == "yes"
    base, large = (size.resources for size in xtreme_r_one_gpu().sizes)
    assert 4 * base.gpus + 2 * large.gpus == 1, "four trials of base beside two of Large"
    left_out = {size.name for size in one_vs_ten_billion().sizes} - {
        size.name for size in one_vs_ten_billion_one_gpu().sizes
    }
    assert left_out == {"xlm-r-xxl", "mt5-xxl"}


@pytest.mark.usefixtures("offline")
def test_mt0_is_a_choice_of_each_mt5_and_is_marked_where_it_has_seen_the_target() -> None:
    study = mt0_vs_mt5()
    assert not seen_flags(study), "mT5 has seen text alone"
    for size in study.sizes:
        assert study.space_of(size).names == ("none", "mnli", "squad", "mt0")
        seen = seen_flags_of_arms(study, size)["mt0"]
        assert set(seen) == {"tydiqa", "mlqa", "tatoeba"}
        assert "mlqa" in seen["mlqa"]
        languages = study.space.arm("mt0").trained_languages
        assert languages is not None
        assert {"ar", "sw", "zh"} < set(languages)
        assert not {"en", "de", "ru"} & set(languages)
        encoders = [study.base(size, choice) for choice in study.space.defaults()]
        assert encoders[0].label == f"import-{size.name}"
        assert encoders[3].label == f"import-{size.name.replace('mt5', 'mt0')}"


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
    assert {target.languages for target in rates.targets} == {("en",)}
    names = {target.name for target in study.targets}
    assert {target.name for target in rates.targets} < names
    # Every size is trained at one of the rates that were compared.
    assert {study.space.lr_target[0] * size.rate_factor for size in study.sizes} <= set(rates.space.lr_target)
    assert {size.rate_factor for size in rates.sizes} == {1.0}


def test_a_value_that_a_recipe_may_not_hold_is_an_invalid_study(tmp_path: Path) -> None:
    """An unknown family is refused where the encoder is built, before there is a study."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from study.spec import PublishedEncoder\n\ndef mine():\n    PublishedEncoder('e', 'org/e', family='gpt')\n"
    )
    with pytest.raises(InvalidStudy, match=r"mine.py:mine: e: no family 'gpt'; use one of .*xlm-roberta"):
        load_recipe(f"{path}:mine")
