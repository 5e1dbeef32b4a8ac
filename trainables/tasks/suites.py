"""XTREME and XTREME-R: the tasks of each benchmark, their languages, and the official average.

Languages are those of `evaluate.py` in google-research/xtreme, which lists none for LAReQA: its languages are the files of
XQuAD-R in google-research-datasets/lareqa. The tables do not depend on this project's task classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class SuiteTask:
    """A task and the languages that its score averages over."""

    name: str
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """A benchmark: the tasks that `suite_score` averages over."""

    name: str
    tasks: tuple[SuiteTask, ...]

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Every language of at least one task, sorted."""
        return tuple(sorted({language for task in self.tasks for language in task.languages}))


def suite_score(suite: Suite, scores: Mapping[str, Mapping[str, float]], *, english: bool = True) -> float:
    """The benchmark's score: the mean over a task's languages, then the mean over tasks, both unweighted.

    A QA task's score in a language is (F1 + EM) / 2. LAReQA is defined as a mean over all questions; each language has the
    same number, so that the mean over languages is equal.

    Args:
        suite: the benchmark.
        scores: by task and language, in percent; tasks and languages outside the suite are ignored.
        english: whether the average includes English.

    Raises:
        ValueError: a task or a language of the suite has no score; the message names all of them.
    """
    wanted = {task.name: [name for name in task.languages if english or name != "en"] for task in suite.tasks}
    missing = [task for task in wanted if task not in scores]
    problems = [f"no scores for {', '.join(missing)}"] if missing else []
    for task, languages in wanted.items():
        absent = [name for name in languages if task in scores and name not in scores[task]]
        if absent:
            problems.append(f"{task} has none in {', '.join(absent)}")
    if problems:
        raise ValueError(f"{suite.name}: {'; '.join(problems)}; the score is a mean over all tasks and languages")
    means = [sum(scores[task][name] for name in languages) / len(languages) for task, languages in wanted.items()]
    return sum(means) / len(means)


_XNLI = tuple("ar bg de el en es fr hi ru sw th tr ur vi zh".split())
_UDPOS = tuple(
    "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh".split()
)
_PANX = tuple(
    "af ar bg bn de el en es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr ms my nl pt ru sw ta te th tl tr ur vi "
    "yo zh".split()
)
_TATOEBA = tuple(
    "af ar bg bn de el es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr nl pt ru sw ta te th tl tr ur vi zh".split()
)
_XQUAD = tuple("ar de el en es hi ru th tr vi zh".split())
_MLQA = tuple("ar de en es hi vi zh".split())
_TYDIQA = tuple("ar bn en fi id ko ru sw te".split())

XTREME = Suite(
    "xtreme",
    (
        SuiteTask("xnli", _XNLI),
        SuiteTask("pawsx", tuple("de en es fr ja ko zh".split())),
        SuiteTask("udpos", _UDPOS),
        SuiteTask("panx", _PANX),
        SuiteTask("xquad", _XQUAD),
        SuiteTask("mlqa", _MLQA),
        SuiteTask("tydiqa", _TYDIQA),
        SuiteTask("bucc", tuple("de fr ru zh".split())),
        SuiteTask("tatoeba", _TATOEBA),
    ),
)
XTREME_R = Suite(
    "xtreme_r",
    (
        SuiteTask("xnli", _XNLI),
        SuiteTask("xcopa", tuple("et ht id it qu sw ta th tr vi zh".split())),
        SuiteTask("udpos", (*_UDPOS, *"lt pl ro uk wo".split())),
        SuiteTask("panx", (*_PANX, *"az gu lt pa pl qu ro uk".split())),
        SuiteTask("xquad", (*_XQUAD, "ro")),
        SuiteTask("mlqa", _MLQA),
        SuiteTask("tydiqa", _TYDIQA),
        SuiteTask("tatoeba", (*_TATOEBA, *"az lt pl ro uk".split())),
        SuiteTask("mewslix", tuple("ar de en es fa ja pl ro ta tr uk".split())),
        SuiteTask("lareqa", tuple("ar de el en es hi ru th tr vi zh".split())),
    ),
)
SUITES: dict[str, Suite] = {suite.name: suite for suite in (XTREME, XTREME_R)}
