"""XTREME-R with XLM-R base and large: which English intermediate task helps which target, at two sizes of one family.

python -m study run xtreme_r --data-root DIR
python -m study run xtreme_r_one_gpu --data-root DIR     # the same study, laid out on one card of 80 GB

DIR holds what is not on the hub: LAReQA (`xquad_r/`, with sentence breaks), Mewsli-X (`mewsli_x/`) and English EWT (`ud/`).
Everything else, also the text for masked language modelling (`text/`), is read from DIR where it is complete there, otherwise
from the hub at pinned commits.

Published scores of XLM-R Large without an intermediate task: XNLI 79.2, POS 73.8, NER 65.4, XQuAD 76.6 / 60.8, MLQA 71.6 /
53.2, TyDiQA 65.1 / 45.0 (on XTREME's test sets, from the RemBERT paper, Chung et al. 2021; XTREME-R has more languages in POS,
NER and XQuAD). Tatoeba's sentence vectors come from the encoder's output, which differs from the published protocol.
"""

from __future__ import annotations

import dataclasses

from study.spec import BenchmarkPlan, Mixture, Resources, Size, Space, Study, TaskTuning, Training
from trainables.models.catalogue import published
from trainables.models.published_encoder import pinned_encoder
from trainables.tasks.english.commonsense_qa import CommonsenseQA
from trainables.tasks.english.cosmos_qa import CosmosQA
from trainables.tasks.english.hellaswag import HellaSwag
from trainables.tasks.english.mnli import Mnli
from trainables.tasks.english.qqp import Qqp
from trainables.tasks.english.squad import Squad
from trainables.tasks.english.squad2 import Squad2
from trainables.tasks.offline.ewt_xpos import EwtXpos
from trainables.tasks.pinning import pinned_if_possible
from trainables.tasks.unlabelled.masked_lm import MaskedLm
from trainables.tasks.xtreme.lareqa import Lareqa
from trainables.tasks.xtreme.mewslix import MewsliX
from trainables.tasks.xtreme.mlqa import Mlqa
from trainables.tasks.xtreme.panx import PanX
from trainables.tasks.xtreme.tatoeba import Tatoeba
from trainables.tasks.xtreme.tydiqa import TyDiQA
from trainables.tasks.xtreme.udpos import Udpos
from trainables.tasks.xtreme.xcopa import Xcopa
from trainables.tasks.xtreme.xnli import Xnli
from trainables.tasks.xtreme.xquad import XQuAD

BATCH = 32
# Sizes of the English training sets, used only to turn epochs into steps. Long contexts give some questions several features,
# so an epoch of question answering here is slightly less than a full one.
EXAMPLES = {
    **{"mnli": 392_702, "qqp": 363_846, "squad": 87_599, "squad2": 130_319, "hellaswag": 39_905, "cosmos_qa": 25_262},
    **{"commonsense_qa": 9_741, "ewt_xpos": 12_544, "siqa": 33_410, "xcopa": 400, "udpos": 21_253, "panx": 20_000},
    **{"tydiqa": 3_696, "lareqa": 78_800, "mewslix": 115_000},
}
# XTREME's learning rates as multiples of 2e-5, its rate for everything but question answering.
USUAL, QUESTIONS, MEWSLI = 1.0, 1.5, 0.5


def xtreme_r(seed: int = 0) -> Study:
    """Two sizes, ten targets, eight intermediate tasks, two mixtures and none, one seed."""
    tuning = Training(2e-5, epochs("mnli", 2), BATCH, seed, precision="bf16_mixed")
    intermediate = Training(1e-5, 12_000, BATCH, seed, precision="bf16_mixed", max_length=256)
    single = tuple(
        pinned_if_possible(task)
        for task in (
            *(Mnli(), Qqp(), Squad(), Squad2()),
            *(HellaSwag(), CosmosQA(), CommonsenseQA(), EwtXpos()),
        )
    )
    return Study(
        name="xtreme_r",
        version=1,
        seed=seed,
        sizes=(
            # Two trials of base share a card of 24 GB, and two of Large one of 40 GB. Of the widest batch (five alternatives of
            # 32 questions) a half holds so many tokens at once, and the whole batch of most tasks.
            Size("xlm-r-base", pinned_encoder(published("xlm-r-base")), _half_a_gpu(memory_gb=12, tokens=16_384)),
            Size(
                "xlm-r-large",
                pinned_encoder(published("xlm-r-large")),
                _half_a_gpu(memory_gb=20, tokens=4096),
            ),
        ),
        # Cheap targets first: ASHA compares trials after some of them.
        targets=tuple(
            pinned_if_possible(task)
            for task in (
                *(Udpos(), PanX(), TyDiQA(), Xcopa(), XQuAD()),
                *(Mlqa(), Xnli(), Lareqa(), MewsliX(), Tatoeba()),
            )
        ),
        space=Space(
            intermediates=(
                *single,
                # No more steps than the longest single task: the comparison is of tasks, not of training length.
                Mixture("all_english", single),
                # 125,000 texts in XTREME-R's 50 languages, and MNLI capped at 131,072: each gets every second step.
                Mixture("mnli_masked_lm", (single[0], pinned_if_possible(MaskedLm()))),
            ),
            lr_intermediate=(1e-5, 5e-6, 2e-5),
            lr_target=(2e-5, 1e-5, 3e-5),
        ),
        intermediate_tuning=intermediate,
        tuning=tuning,
        own_tuning=(*_intermediate_tunings(intermediate), *target_tunings(tuning)),
        trials=24,
        benchmark=BenchmarkPlan(variants=("fp32", "bf16", "compiled_bf16")),
    )


def xtreme_r_one_gpu(seed: int = 0) -> Study:
    """The same study on one card of 80 GB: two trials of Large and four of base train side by side.

    Its stages and its output folder are those of `xtreme_r`, so either continues the other.
    """
    study = xtreme_r(seed)
    usual = Resources(cpus=2, bf16_gpu=True, gpus=0.125, gpu_memory_gb=10, micro_batch=256, micro_batch_tokens=4096)
    on_one_card = {
        "xlm-r-base": usual,
        "xlm-r-large": dataclasses.replace(usual, cpus=4, gpus=0.25, gpu_memory_gb=20),
    }
    sizes = tuple(dataclasses.replace(size, resources=on_one_card[size.name]) for size in study.sizes)
    return dataclasses.replace(study, sizes=sizes)


def epochs(task: str, count: int, batch: int = BATCH) -> int:
    """Steps of `count` epochs."""
    return round(count * EXAMPLES[task] / batch)


def target_tunings(usual: Training) -> tuple[TaskTuning, ...]:
    """XTREME's and XTREME-R's epochs, lengths and relative learning rates for targets that differ from `usual`.

    XNLI and the other classification tasks train for 2 epochs, as in jiant. Batches are those of `usual`, but for the two dual
    encoders, whose batch is part of their loss.
    """
    batch = usual.batch_size

    def tuned(task: str, steps: int, factor: float, length: int = 128, batch: int = batch) -> TaskTuning:
        training = dataclasses.replace(usual, steps=steps, max_length=length, batch_size=batch)
        return TaskTuning(task, training, factor)

    def questions(task: str, examples: str) -> TaskTuning:
        steps = epochs(examples, 3, batch)
        reading = tuned(task, steps, QUESTIONS, length=384)
        warmup = min(0.5, 500 * BATCH / batch / steps)  # as many examples as 500 batches of 32
        warm = dataclasses.replace(reading.training, warmup=warmup, weight_decay=1e-4)
        return dataclasses.replace(reading, training=warm)

    return (
        tuned("udpos", epochs("udpos", 10, batch), USUAL),
        tuned("panx", epochs("panx", 10, batch), USUAL),
        questions("tydiqa", "tydiqa"),
        questions("xquad", "squad"),
        questions("mlqa", "squad"),
        tuned("siqa", epochs("siqa", 5, batch), QUESTIONS),
        tuned("xcopa", epochs("xcopa", 5, batch), USUAL),
        tuned("lareqa", epochs("lareqa", 3, 16), USUAL, length=256, batch=16),
        tuned("mewslix", epochs("mewslix", 2, 64), MEWSLI, length=64, batch=64),
    )


def _intermediate_tunings(usual: Training) -> tuple[TaskTuning, ...]:
    """Three epochs of small tasks, 12,000 steps of large ones; longer rows for question answering, also in a mixture."""
    steps = {
        task: min(usual.steps, epochs(task, 3)) for task in ("hellaswag", "cosmos_qa", "commonsense_qa", "ewt_xpos")
    }
    small = [TaskTuning(task, dataclasses.replace(usual, steps=count)) for task, count in steps.items()]
    reading = dataclasses.replace(usual, max_length=384)
    return (*small, *(TaskTuning(task, reading) for task in ("squad", "squad2", "all_english")))


def _half_a_gpu(*, memory_gb: float, tokens: int) -> Resources:
    """Half a card, with so much memory: a batch of 32 short rows keeps a small part of it busy."""
    usual = Resources(cpus=4, gpus=0.5, bf16_gpu=True, micro_batch=256)
    return dataclasses.replace(usual, gpu_memory_gb=memory_gb, micro_batch_tokens=tokens)
