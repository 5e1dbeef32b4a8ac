"""The tables of XTREME and XTREME-R against their published counts, the official averages, and contamination flags."""

from __future__ import annotations

import pickle

import pytest

from trainables.tasks.contamination import ContaminationFlag, contamination_flag, seen_data
from trainables.tasks.registry import TASKS
from trainables.tasks.suites import SUITES, Suite, SuiteTask, suite_score

XTREME, XTREME_R = SUITES["xtreme"], SUITES["xtreme_r"]
# The README of google-research/xtreme, "Tasks and Languages".
FORTY = (
    "af ar bg bn de el en es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr ms my nl pt ru sw ta te th tl tr ur vi "
    "yo zh"
).split()


def languages(suite: Suite) -> dict[str, set[str]]:
    return {task.name: set(task.languages) for task in suite.tasks}


class TestLanguages:
    @pytest.mark.parametrize(
        ("suite", "counts"),
        [  # XTREME_TASK2LANGS and XTREME_R_TASK2LANGS in XTREME's evaluate.py; LAReQA: the files of XQuAD-R
            (
                XTREME,
                "xnli 15, pawsx 7, udpos 33, panx 40, xquad 11, mlqa 7, tydiqa 9, bucc 4, tatoeba 36",
            ),
            (
                XTREME_R,
                "xnli 15, xcopa 11, udpos 38, panx 48, xquad 12, mlqa 7, tydiqa 9, tatoeba 41, mewslix 11, lareqa 11",
            ),
        ],
        ids=["xtreme", "xtreme_r"],
    )
    def test_counts(self, suite: Suite, counts: str) -> None:
        assert ", ".join(f"{task.name} {len(task.languages)}" for task in suite.tasks) == counts
        assert all(len(set(task.languages)) == len(task.languages) for task in suite.tasks)

    def test_all_of_xtreme(self) -> None:
        assert list(XTREME.languages) == FORTY

    def test_all_of_xtreme_r(self) -> None:
        added = set(XTREME_R.languages) - set(FORTY)
        assert len(XTREME_R.languages) == 50
        assert added == {"az", "gu", "ht", "lt", "pa", "pl", "qu", "ro", "uk", "wo"}

    def test_tatoeba_is_panx_without_four(self) -> None:
        assert languages(XTREME)["panx"] - languages(XTREME)["tatoeba"] == {"en", "ms", "yo", "my"}
        assert languages(XTREME_R)["tatoeba"] - languages(XTREME)["tatoeba"] == {"az", "lt", "pl", "uk", "ro"}

    def test_what_xtreme_r_adds(self) -> None:
        old, new = languages(XTREME), languages(XTREME_R)
        assert set(old) - set(new) == {"pawsx", "bucc"}
        assert set(new) - set(old) == {"xcopa", "mewslix", "lareqa"}
        assert new["udpos"] - old["udpos"] == {"lt", "pl", "uk", "wo", "ro"}
        assert new["panx"] - old["panx"] == {"qu", "pl", "uk", "az", "lt", "pa", "gu", "ro"}
        assert new["xquad"] - old["xquad"] == {"ro"}
        assert all(old[task] <= new[task] for task in old.keys() & new.keys())

    def test_lareqa_is_xquad_without_romanian(self) -> None:
        assert languages(XTREME_R)["lareqa"] == languages(XTREME)["xquad"]

    def test_suites_can_be_sent_to_a_worker(self) -> None:
        assert pickle.loads(pickle.dumps(XTREME_R)) == XTREME_R


SMALL = Suite("small", (SuiteTask("nli", ("en", "de", "sw")), SuiteTask("retrieval", ("de", "sw"))))


class TestScore:
    def test_is_a_mean_of_means(self) -> None:
        scores = {"nli": {"en": 90.0, "de": 60.0, "sw": 30.0}, "retrieval": {"de": 50.0, "sw": 10.0}}
        assert suite_score(SMALL, scores) == (60 + 30) / 2
        assert suite_score(SMALL, scores, english=False) == (45 + 30) / 2

    def test_does_not_need_english_without_it(self) -> None:
        scores = {"nli": {"de": 60.0, "sw": 30.0}, "retrieval": {"de": 50.0, "sw": 10.0}}
        assert suite_score(SMALL, scores, english=False) == 37.5
        with pytest.raises(ValueError, match="small: nli has none in en;"):
            suite_score(SMALL, scores)

    def test_ignores_tasks_and_languages_outside_the_suite(self) -> None:
        scores = {
            "nli": {"en": 90.0, "de": 60.0, "sw": 30.0, "fr": 0.0},
            "retrieval": {"de": 50.0, "sw": 10.0},
            "other": {"en": 0.0},
        }
        assert suite_score(SMALL, scores) == 45.0

    @pytest.mark.parametrize("suite", [XTREME, XTREME_R], ids=lambda suite: suite.name)
    @pytest.mark.parametrize("english", [True, False])
    def test_of_a_whole_benchmark(self, suite: Suite, english: bool) -> None:
        """English 100 and all others 40: a task with n languages has 40 + 60 / n, or 40 without English."""
        scores = {task.name: {name: 100.0 if name == "en" else 40.0 for name in task.languages} for task in suite.tasks}
        with_english = [len(task.languages) for task in suite.tasks if "en" in task.languages]
        expected = 40 + english * sum(60 / count for count in with_english) / len(suite.tasks)
        assert suite_score(suite, scores, english=english) == pytest.approx(expected)

    def test_names_everything_that_is_missing(self) -> None:
        scores = {task.name: dict.fromkeys(task.languages, 50.0) for task in XTREME.tasks}
        del scores["mlqa"], scores["bucc"], scores["xnli"]["sw"], scores["xnli"]["ur"], scores["pawsx"]["ko"]
        with pytest.raises(
            ValueError,
            match=r"^xtreme: no scores for mlqa, bucc; xnli has none in sw, ur; pawsx has none in ko; .*mean",
        ):
            suite_score(XTREME, scores)


@pytest.mark.parametrize(
    ("seen", "flagged"),
    [
        (set(), {}),
        ({"bitext"}, {"tatoeba": ("bitext",), "bucc": ("bitext",)}),
        ({"retrieval"}, {"lareqa": ("retrieval",), "mewslix": ("retrieval",)}),
        (
            {"squad_train", "mnli"},
            {"xquad": ("squad_train",), "mlqa": ("squad_train",), "xnli": ("mnli",), "lareqa": ("squad_train",)},
        ),
        (
            {"squad_dev", "retrieval"},
            {"xquad": ("squad_dev",), "lareqa": ("retrieval", "squad_dev"), "mewslix": ("retrieval",)},
        ),
        ({"hellaswag"}, {}),
    ],
)
def test_what_an_encoder_has_seen_flags_the_targets_that_it_teaches(
    seen: set[str], flagged: dict[str, tuple[str, ...]]
) -> None:
    tasks = [TASKS[task.name]() for suite in (XTREME, XTREME_R) for task in suite.tasks]
    flags = {task.name: names for task in tasks if (names := seen_data(frozenset(seen), task))}
    assert flags == flagged


class TestContaminationFlag:
    @pytest.mark.parametrize(
        ("reads", "target_reads", "scores_on", "expected"),
        [
            ({"mnli"}, {"mnli"}, {"xnli"}, "same data"),
            ({"squad"}, {"squad"}, {"squad-dev"}, "same data"),
            ({"squad", "squad-dev"}, {"squad"}, {"squad-dev"}, "leak"),  # both: a leak takes precedence
            ({"squad-dev"}, {"tydiqa"}, {"squad-dev"}, "leak"),
            ({"snli", "mnli", "anli"}, {"mnli"}, {"xnli"}, "same data"),  # one part of a mixture is enough
            ({"qqp"}, {"mnli"}, {"xnli"}, None),
            (set(), {"mnli"}, {"xnli"}, None),  # no intermediate task
            ({"qqp"}, set(), {"tatoeba"}, None),  # a target without training
        ],
    )
    def test_of_a_pair(
        self, reads: set[str], target_reads: set[str], scores_on: set[str], expected: ContaminationFlag | None
    ) -> None:
        assert contamination_flag(frozenset(reads), frozenset(target_reads), frozenset(scores_on)) == expected
