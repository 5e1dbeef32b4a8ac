"""Real text without a network: a ladder pre-trained on NTREX, and those of XTREME-R's tasks whose files are freely available.

python -m study run real_offline --data-root DIR

Encoders are small, steps are few, and stand-ins replace unavailable training sets (their names say so). Scores compare the
choices inside this study and are not XTREME-R's. DIR holds published files in their published formats; `python -m study tasks
--data-root DIR` lists the path of each.
"""

from __future__ import annotations

import dataclasses

from study.spec import (
    BenchmarkPlan,
    LadderEncoder,
    Resources,
    Shape,
    Size,
    Space,
    Study,
    TaskTuning,
    Training,
    cpu_precision,
)
from trainables.data.formats.ntrex import NtrexCorpus, pinned_corpus
from trainables.tasks.english.commonsense_qa import CommonsenseQA
from trainables.tasks.offline.ewt_xpos import EwtXpos
from trainables.tasks.offline.lareqa_from_tydiqa import LareqaFromTyDiQA
from trainables.tasks.offline.snli_dev_test import SnliDevTestAsTrain
from trainables.tasks.offline.xcopa_from_copa import XcopaFromCopa
from trainables.tasks.offline.xnli_from_cad_nli import XnliFromCadNli
from trainables.tasks.offline.xquad_from_tydiqa import XQuADFromTyDiQA
from trainables.tasks.pinning import pinned
from trainables.tasks.xtreme.tatoeba import Tatoeba
from trainables.tasks.xtreme.tydiqa import TyDiQA
from trainables.tasks.xtreme.udpos import Udpos

POS = ("en", "de", "es", "fr", "ru", "fi", "tr", "ar", "hi", "id", "zh", "af")
QUESTIONS = ("en", "de", "es", "el", "ru", "tr", "ar", "zh")
TYDI = ("en", "ar", "fi", "id", "ru")
CHOICES = ("et", "id", "it", "sw", "th", "tr", "vi", "zh")
BITEXT = (
    *("af", "ar", "bg", "de", "el", "es", "et", "fi", "fr", "he"),
    *("hi", "id", "it", "ja", "ko", "nl", "pt", "ru", "sw", "tr"),
)


def real_offline(seed: int = 0) -> Study:
    """Two sizes, seven targets, three intermediate tasks and none, one seed.

    Raises:
        DataError: there is no data root, or it lacks files; each missing one is named.
    """
    precision = cpu_precision().value
    languages = tuple(sorted({*POS, *QUESTIONS, *TYDI, *CHOICES, *BITEXT} - {"en"}))
    tuning = Training(learning_rate=1e-3, steps=150, batch_size=32, seed=seed, precision=precision)
    reading = dataclasses.replace(tuning, batch_size=16, max_length=192)
    pretraining = Training(
        learning_rate=2e-3, steps=600, batch_size=2, seed=seed, precision=precision, max_length=64, warmup=0.05
    )
    return Study(
        name="real_offline",
        version=1,
        seed=seed,
        corpus=pinned_corpus(NtrexCorpus(languages)),
        vocabulary_size=8000,
        group_pairs=32,
        sizes=(
            Size("2x128", LadderEncoder(Shape(2, 128), pretraining), Resources()),
            Size(
                "3x192",
                LadderEncoder(Shape(3, 192), dataclasses.replace(pretraining, learning_rate=1.5e-3)),
                Resources(),
            ),
        ),
        targets=(
            pinned(Udpos(languages_=POS, dev_size=500, test_size=200)),
            pinned(XnliFromCadNli(languages_=("en", "sw"), dev_size=1000, test_size=1000)),
            pinned(XcopaFromCopa(languages_=CHOICES)),
            pinned(TyDiQA(languages_=TYDI, test_size=200)),
            pinned(XQuADFromTyDiQA(languages_=QUESTIONS, test_size=150)),
            pinned(LareqaFromTyDiQA(languages_=QUESTIONS)),
            pinned(Tatoeba(languages_=BITEXT)),
        ),
        space=Space(
            intermediates=(
                pinned(SnliDevTestAsTrain()),
                pinned(CommonsenseQA(dev_size=500)),
                pinned(EwtXpos(dev_size=500)),
            ),
            lr_intermediate=(1e-3, 3e-4),
            lr_target=(1e-3, 5e-4),
        ),
        intermediate_tuning=tuning,
        tuning=tuning,
        own_tuning=(
            *(TaskTuning(name, reading) for name in ("tydiqa", "xquad_from_tydiqa", "lareqa_from_tydiqa")),
            TaskTuning("xcopa_from_copa", dataclasses.replace(tuning, steps=60)),
        ),
        trials=4,
        repeats=None,  # they take an hour; `--repeats 3` adds them, also to a finished run
        benchmark=BenchmarkPlan(
            ("fp32", "bf16" if precision == "bf16_mixed" else "compiled"),
            window_s=10.0,
            repeats=1,
        ),
    )
