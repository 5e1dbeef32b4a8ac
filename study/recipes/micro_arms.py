"""Every arm side by side on MicroXTREME: what to train before, beside or instead of an English intermediate task.

python -m study run micro_arms

The middle size of the quickstart and its targets, with an English dev set for retrieval too. Every choice is a default cell and
is repeated with two further seeds.
"""

from __future__ import annotations

import dataclasses

from study.recipes.quickstart import LANGUAGES, quickstart
from study.spec import Arm, Joint, Mixture, Repeats, Sequential, Study, merged
from trainables.tasks.base import Task
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.intermediate import MicroParaphrase, MicroTopic
from trainables.tasks.micro.masked_lm import MicroMaskedLm
from trainables.tasks.translated import in_languages

TRANSLATED = ("de", "ar", "sw")  # labelled data in the other eight languages but English stay unseen


def micro_arms(seed: int = 0) -> Study:
    """One size, five targets, ten arms and none, three seeds."""
    study = quickstart(seed)
    topic, paraphrase = MicroTopic(), MicroParaphrase()
    translated = in_languages(topic, TRANSLATED)
    arms: tuple[Task | Mixture | Arm, ...] = (
        topic,
        paraphrase,
        Mixture("topic_paraphrase", (topic, paraphrase)),
        Mixture("topic_masked_lm", (topic, MicroMaskedLm(languages_=LANGUAGES))),
        Joint(topic),
        translated,
        Mixture("topic_and_translated", (topic, translated)),
        Sequential(topic, weight_decay=0.0),
        *merged("merged", (topic, paraphrase), scales=(1.0, 0.5)),
    )
    targets = tuple(
        dataclasses.replace(task, english_dev="paraphrases") if isinstance(task, MicroBitext) else task
        for task in study.targets
    )
    return dataclasses.replace(
        study,
        name="micro_arms",
        version=1,
        sizes=(study.size("2x128"),),
        targets=targets,
        space=dataclasses.replace(study.space, intermediates=arms),
        trials=len(arms) + 1,  # every arm once, and nothing else
        first_rung=len(targets),  # no trial is stopped
        repeats=Repeats(top=len(arms) + 1, seeds=2),
        benchmark=dataclasses.replace(study.benchmark, variants=("fp32",)),
    )
