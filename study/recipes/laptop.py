"""A published encoder on real text without a GPU: multilingual-e5-small with its first 3, its first 6 and all 12 layers.

python -m study run laptop_rates --data-root DIR          # which learning rates? on English dev, without an intermediate task
python -m study run laptop --data-root DIR                # every cell with three seeds; `--repeats 0`: with one
python -m study run laptop_tiny --data-root DIR           # 3 layers, three targets, two choices: minutes

On two cores of an AMD EPYC two cells of 3 layers took a quarter of an hour side by side, most of it for questions and
retrieval: about an hour for that size and seed, twice as much for 6 layers, and so on (extrapolated; not run in whole).

Sizes from one checkpoint differ in depth alone: data, tokenizer and width are the same. Seeds share nothing but the encoder:
`--repeats 0 --seed 1` in another output folder trains the second one by itself, on another machine for example.

DIR holds what is not on the hub (`python -m study tasks --data-root DIR`) and, without a network, everything: the encoder under
`encoders/intfloat/multilingual-e5-small/`. Stand-ins replace training sets that are not free or not in DIR; their names say so.
The encoder was trained on translations, retrieval data, NLI, SQuAD and Mr. TyDi before; `plan` lists the targets marked for it.
"""

from __future__ import annotations

import dataclasses

from study.spec import (
    BenchmarkPlan,
    Mixture,
    Repeats,
    Resources,
    Size,
    Space,
    Study,
    TaskTuning,
    Training,
    cpu_precision,
)
from trainables.models.catalogue import published
from trainables.models.published_encoder import pinned_encoder
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
from trainables.tasks.xtreme.tatoeba import Tatoeba
from trainables.tasks.xtreme.tydiqa import TyDiQA
from trainables.tasks.xtreme.udpos import Udpos

ENCODER, LAYERS = "e5-small", (3, 6, 12)
BATCH, WIDTH, TOKENS = 32, 384, 1280  # of a batch of sentence pairs
READING_BATCH, READING_LENGTH = 16, 256  # of question answering
# The languages whose test sets are freely available as files.
POS = ("en", "de", "es", "fr", "ru", "fi", "tr", "ar", "hi", "id", "zh", "af")
QUESTIONS = ("en", "de", "es", "el", "ru", "tr", "ar", "zh")
# Of these, so that candidates do not take longer to score than all other targets: 1,200 sentences with paragraphs a language,
# 50 a second with 3 layers on two cores.
POOLED = ("en", "de", "ar", "zh")
TYDI = ("en", "ar", "fi", "id", "ru")
CHOICES = ("et", "id", "it", "sw", "th", "tr", "vi", "zh")
BITEXT = (
    *("af", "ar", "bg", "de", "el", "es", "et", "fi", "fr", "he"),
    *("hi", "id", "it", "ja", "ko", "nl", "pt", "ru", "sw", "tr"),
)


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
        version=1,
        seed=seed,
        sizes=tuple(_size(layers) for layers in LAYERS),
        # Cheap targets first: ASHA compares trials after some of them.
        targets=tuple(
            pinned_if_possible(task)
            for task in (
                Udpos(languages_=POS, dev_size=500, test_size=300),
                UnerDevAsTrain(),
                XcopaFromCopa(languages_=CHOICES),
                XnliFromCadNli(languages_=("en", "sw"), dev_size=1000, test_size=2000),
                TyDiQA(languages_=TYDI, test_size=300),
                XQuADFromTyDiQA(languages_=QUESTIONS, test_size=200),
                LareqaFromTyDiQA(languages_=POOLED, test_size=300),
                Tatoeba(languages_=BITEXT),
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
        benchmark=BenchmarkPlan(("fp32", "cut", "int8", "cut_onnx_int8"), window_s=20.0, repeats=3),
    )


def laptop_rates(seed: int = 0) -> Study:
    """The learning rates of `laptop`, chosen on English dev: four rates of the targets, without an intermediate task."""
    study = laptop(seed)
    space = dataclasses.replace(study.space, intermediates=(), lr_target=(2e-4, 5e-5, 1e-4, 4e-4))
    return dataclasses.replace(
        study,
        name="laptop_rates",
        space=space,
        own_tuning=tuple(own for own in study.own_tuning if own.task in {target.name for target in study.targets}),
        trials=4,
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
    return Size(f"{layers}l", pinned_encoder(encoder), Resources(cpus=2 if whole else 1, micro_batch=32))


def _tuning(seed: int) -> Training:
    precision = cpu_precision(width=WIDTH, tokens=TOKENS).value
    return Training(learning_rate=2e-4, steps=200, batch_size=BATCH, seed=seed, precision=precision)


def _reading(usual: Training) -> Training:
    return dataclasses.replace(usual, steps=120, batch_size=READING_BATCH, max_length=READING_LENGTH)


def _own_tunings(usual: Training) -> tuple[TaskTuning, ...]:
    """Question answering reads longer rows; inference needs more steps than tagging, and COPA has 400 examples."""
    reading, steps = _reading(usual), {"xnli_from_cad_nli": 400, "uner_dev_as_train": 120, "xcopa_from_copa": 120}
    long = dataclasses.replace(usual, max_length=READING_LENGTH)
    return (
        *(TaskTuning(name, reading) for name in ("tydiqa", "xquad_from_tydiqa", "tydiqa_english")),
        TaskTuning("lareqa_from_tydiqa", dataclasses.replace(reading, steps=80)),
        *(TaskTuning(name, dataclasses.replace(usual, steps=count)) for name, count in steps.items()),
        TaskTuning("all_english", long),
    )
