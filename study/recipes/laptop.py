"""A published encoder on real text without a GPU: multilingual-e5-small with its first 3, its first 6 and all 12 layers.

python -m study run laptop_rates --data-root DIR          # which learning rates? on English dev, without an intermediate task
python -m study run laptop --data-root DIR                # every cell with three seeds; `--repeats 0`: with one
python -m study run laptop_arms --data-root DIR           # six layers: what else to train than a task before the target
python -m study run laptop_tiny --data-root DIR           # 3 layers, three targets, two choices: minutes

Sizes from one checkpoint differ in depth alone: data, tokenizer and width are the same. Seeds share nothing but the encoder:
`--repeats 0 --seed 1` in another output folder trains the second one by itself, on another machine for example.

DIR holds what is not on the hub (`python -m study tasks --data-root DIR`) and, without a network, everything: the encoder under
`encoders/intfloat/multilingual-e5-small/`. Stand-ins replace training sets that are not free or not in DIR; their names say so.
The encoder was trained on translations, retrieval data, NLI, SQuAD and Mr. TyDi before; `plan` lists the targets marked for it.
"""

from __future__ import annotations

import dataclasses

from study.spec import (
    Arm,
    BenchmarkPlan,
    Joint,
    Mixture,
    Repeats,
    Resources,
    Sequential,
    Size,
    Space,
    Study,
    TaskTuning,
    Training,
    cpu_precision,
    merged,
)
from trainables.models.catalogue import published
from trainables.models.published_encoder import pinned_encoder
from trainables.tasks.base import Task
from trainables.tasks.english.commonsense_qa import CommonsenseQA
from trainables.tasks.offline.cosmos_qa_validation_as_train import CosmosQAValidationAsTrain
from trainables.tasks.offline.ewt_xpos import EwtXpos
from trainables.tasks.offline.hellaswag_validation_as_train import HellaSwagValidationAsTrain
from trainables.tasks.offline.lareqa_from_tydiqa import LareqaFromTyDiQA
from trainables.tasks.offline.snli_dev_test import SnliDevTestAsTrain
from trainables.tasks.offline.tydiqa_english import TyDiQAEnglish
from trainables.tasks.offline.uner import UnerDevAsTrain
from trainables.tasks.offline.xcopa_from_copa import XcopaFromCopa
from trainables.tasks.offline.xnli_from_cad_nli import XnliFromCadNli
from trainables.tasks.offline.xquad_from_tydiqa import XQuADFromTyDiQA
from trainables.tasks.pinning import pinned_if_possible
from trainables.tasks.unlabelled.masked_lm import MaskedLm
from trainables.tasks.xtreme.tatoeba import Tatoeba
from trainables.tasks.xtreme.tydiqa import TyDiQA
from trainables.tasks.xtreme.udpos import Udpos

ENCODER, LAYERS = "e5-small", (3, 6, 12)
# Times the rates of 6 and 12 layers. By `laptop_rates`, mean English dev of four targets at 5e-5, 1e-4, 2e-4 and 4e-4: 30.9,
# 44.6, 47.1, 50.2 with 3 layers; 41.3, 54.3, 58.9, 58.8 with 6. With 12 layers they were not compared.
RATE_FACTORS = {3: 2.0}
BATCH, WIDTH, TOKENS = 32, 384, 1280  # of a batch of sentence pairs
READING_BATCH, READING_LENGTH = 16, 256  # of question answering
CHOICE_TASKS = ("hellaswag_validation_as_train", "commonsense_qa", "cosmos_qa_validation_as_train")
CHOICE_BATCH = 16  # of multiple choice, where an example is 4 or 5 rows
RETRIEVAL_LENGTH = (
    96  # a sentence of 40 tokens and what fits of its paragraph; LAReQA's own 256 takes three times as long
)
# The languages whose test sets are freely available as files.
POS = ("en", "de", "es", "fr", "ru", "fi", "tr", "ar", "hi", "id", "zh", "af")
QUESTIONS = ("en", "de", "es", "el", "ru", "tr", "ar", "zh")
# Of these, so that 1,200 candidates a language do not take longer to score than all other targets.
POOLED = ("en", "de", "ar", "zh")
TYDI = ("en", "ar", "fi", "id", "ru")
CHOICES = ("et", "id", "it", "sw", "th", "tr", "vi", "zh")
# Every second of the languages at hand: all 1,000 pairs of ten languages, as published, in place of half of twenty.
TEXT = ("en", "de", "ar", "fi", "hi", "id", "ru", "sw", "tr", "zh")  # of the unlabelled text
BITEXT = ("af", "ar", "de", "el", "et", "fr", "hi", "id", "ko", "sw")


def laptop(seed: int = 0) -> Study:
    """Three sizes, eight targets, seven intermediate choices and none, three seeds."""
    tuning = _tuning(seed)
    snli, hellaswag = SnliDevTestAsTrain(dev_size=500), HellaSwagValidationAsTrain(dev_size=500)
    commonsense = CommonsenseQA(dev_size=500)
    single = tuple(
        pinned_if_possible(task)
        for task in (
            *(snli, hellaswag, commonsense),
            *(CosmosQAValidationAsTrain(), EwtXpos(dev_size=500), TyDiQAEnglish()),
        )
    )
    return Study(
        name="laptop",
        version=4,  # Tatoeba has an English dev set
        seed=seed,
        sizes=tuple(_size(layers) for layers in LAYERS),
        # Cheap targets first: ASHA compares trials after some of them.
        targets=tuple(
            pinned_if_possible(task)
            for task in (
                Udpos(languages_=POS, dev_size=300, test_size=100),
                UnerDevAsTrain(test_size=300),
                XcopaFromCopa(languages_=CHOICES, test_size=250),
                XnliFromCadNli(languages_=("en", "sw"), dev_size=500, test_size=1000),
                TyDiQA(languages_=TYDI, test_size=100),
                XQuADFromTyDiQA(languages_=QUESTIONS, test_size=60),
                LareqaFromTyDiQA(languages_=POOLED, test_size=150),
                Tatoeba(languages_=BITEXT, english_dev="xnli_entailment"),
            )
        ),
        space=Space(
            intermediates=(*single, Mixture("all_english", single)),
            lr_intermediate=(1e-4,),
            lr_target=(2e-4,),
        ),
        intermediate_tuning=tuning,
        tuning=tuning,
        own_tuning=_own_tunings(tuning),
        trials=len(single) + 2,  # every cell once, and nothing else
        first_rung=8,  # no trial is stopped: every cell has all targets
        repeats=Repeats(top=len(single) + 2, seeds=2),  # of every cell
        # Without Server, whose search for a rate takes half an hour a size.
        benchmark=BenchmarkPlan(
            ("fp32", "cut", "int8", "cut_onnx_int8"), window_s=20.0, repeats=3, scenarios=("SingleStream", "Offline")
        ),
    )


def laptop_arms(seed: int = 0) -> Study:
    """Six layers and the arms beside SNLI before the target; `DIR/text/LANGUAGE.txt` has the unlabelled text.

    What it shares with `laptop` is found where `OUTPUT/stages` is copied.
    """
    study = laptop(seed)
    snli, hellaswag = study.space.intermediates[:2]
    assert isinstance(snli, SnliDevTestAsTrain)
    text = pinned_if_possible(MaskedLm(languages_=TEXT, train_size=1000))
    arms: tuple[Task | Mixture | Arm, ...] = (
        *(snli, hellaswag),
        Mixture("snli_masked_lm", (snli, text)),
        Joint(snli),
        Sequential(snli, weight_decay=0.0),
        *merged("merged", (snli, hellaswag), scales=(1.0, 0.5)),
    )
    named = {task.name for task in (*study.targets, snli, hellaswag)}
    six = study.size("6l")
    return dataclasses.replace(
        study,
        name="laptop_arms",
        version=1,
        # Masked tokens are scored over 250,000 words: smaller micro-batches, and batches as without them.
        sizes=(dataclasses.replace(six, resources=dataclasses.replace(six.resources, micro_batch=8)),),
        space=dataclasses.replace(study.space, intermediates=arms),
        own_tuning=tuple(own for own in study.own_tuning if own.task in named),
        trials=len(arms) + 1,
        repeats=Repeats(top=len(arms) + 1, seeds=2),
        benchmark=dataclasses.replace(study.benchmark, variants=("fp32",)),
    )


def laptop_rates(seed: int = 0) -> Study:
    """The learning rate of `laptop`, chosen on English dev: four rates, four targets in English alone, no intermediate task."""
    study = laptop(seed)
    targets = (
        Udpos(languages_=("en",), dev_size=300, test_size=100),
        UnerDevAsTrain(languages_=("en",), test_size=100),
        XnliFromCadNli(languages_=("en",), dev_size=500, test_size=100),
        TyDiQA(languages_=("en",), test_size=100),
    )
    space = dataclasses.replace(study.space, intermediates=(), lr_target=(2e-4, 5e-5, 1e-4, 4e-4))
    sizes = tuple(dataclasses.replace(size, rate_factor=1.0) for size in study.sizes)
    return dataclasses.replace(
        study,
        name="laptop_rates",
        version=3,
        sizes=sizes,
        targets=tuple(map(pinned_if_possible, targets)),
        space=space,
        own_tuning=tuple(own for own in study.own_tuning if own.task in {target.name for target in targets}),
        trials=4,
        first_rung=4,
        repeats=None,
        benchmark=dataclasses.replace(study.benchmark, variants=("fp32",), repeats=1, window_s=5.0),
    )


def laptop_tiny(seed: int = 0) -> Study:
    """The first 3 layers, three targets, SNLI and none: the whole way of `laptop` in minutes."""
    study = laptop(seed)
    targets = (
        Udpos(languages_=("en", "de", "zh"), dev_size=100, test_size=100),
        TyDiQA(languages_=("en", "fi"), dev_size=60, test_size=60),
        Tatoeba(languages_=("de", "sw")),
    )
    short = dataclasses.replace(study.tuning, steps=40)
    return dataclasses.replace(
        study,
        name="laptop_tiny",
        version=3,
        sizes=study.sizes[:1],
        targets=tuple(map(pinned_if_possible, targets)),
        space=dataclasses.replace(study.space, intermediates=study.space.intermediates[:1]),
        intermediate_tuning=short,
        tuning=short,
        own_tuning=(TaskTuning("tydiqa", dataclasses.replace(_reading(short), steps=20)),),
        trials=2,
        first_rung=3,
        repeats=None,
        benchmark=BenchmarkPlan(("fp32", "int8"), window_s=3.0, repeats=1, scenarios=("SingleStream", "Offline")),
    )


def _size(layers: int) -> Size:
    """Twelve layers take so much memory that two trials may not fit; one then has two cores."""
    whole = layers == LAYERS[-1]
    encoder = published(ENCODER, layers=None if whole else layers)
    resources = Resources(cpus=2 if whole else 1, micro_batch=32)
    return Size(f"{layers}l", pinned_encoder(encoder), resources, rate_factor=RATE_FACTORS.get(layers, 1.0))


def _tuning(seed: int) -> Training:
    precision = cpu_precision(width=WIDTH, tokens=TOKENS).value
    return Training(learning_rate=2e-4, steps=200, batch_size=BATCH, seed=seed, precision=precision)


def _reading(usual: Training) -> Training:
    return dataclasses.replace(usual, steps=120, batch_size=READING_BATCH, max_length=READING_LENGTH)


def _own_tunings(usual: Training) -> tuple[TaskTuning, ...]:
    """Question answering reads longer rows; inference needs more steps than tagging, and COPA has 400 examples."""
    reading = _reading(usual)
    steps = {"udpos": 120, "uner_dev_as_train": 120, "xcopa_from_copa": 100, "xnli_from_cad_nli": 300}
    choices = dataclasses.replace(usual, steps=120, batch_size=CHOICE_BATCH)
    retrieval = dataclasses.replace(usual, steps=60, batch_size=READING_BATCH, max_length=RETRIEVAL_LENGTH)
    return (
        *(TaskTuning(name, reading) for name in ("tydiqa", "xquad_from_tydiqa", "tydiqa_english")),
        TaskTuning("lareqa_from_tydiqa", retrieval),
        *(TaskTuning(name, dataclasses.replace(usual, steps=count)) for name, count in steps.items()),
        *(TaskTuning(name, choices) for name in CHOICE_TASKS),
        TaskTuning("all_english", dataclasses.replace(reading, steps=200)),
    )
