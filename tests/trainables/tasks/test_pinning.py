"""The identity of published tasks: files, commits and samples, and which tasks share a training stage."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests.trainables.tasks.suite import PUBLISHED, is_candidate, paths_of
from trainables.data import revisions
from trainables.data.source import DATA_ROOT_VARIABLE, DataError, data_root
from trainables.store.fingerprint import fingerprint
from trainables.tasks.english.squad import Squad
from trainables.tasks.pinning import pinned
from trainables.tasks.xtreme.xnli import Xnli
from trainables.tasks.xtreme.xquad import XQuAD

pytestmark = pytest.mark.usefixtures("on_mini_root")


@pytest.mark.parametrize("name", PUBLISHED)
class TestEveryPublishedTask:
    def test_the_data_are_pinned(
        self, name: str, mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = pinned(PUBLISHED[name]())
        assert here.revision == here.data == pinned(PUBLISHED[name]()).data
        assert here.missing(data_root()) == []
        copied = sorted(set(paths_of(here)))
        for path in copied:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (mini_root / path).is_dir() else shutil.copy2
            copy(mini_root / path, tmp_path / path)
        monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
        split, language = here.splits()[-1]
        there = pinned(PUBLISHED[name]())
        assert there == here  # the location of files is not part of their identity
        assert there.examples(split, language)
        own = set(paths_of(dataclasses.replace(here, before=())))
        for number, path in enumerate(path for path in copied if path in own):
            file = min((tmp_path / path).glob("*")) if (tmp_path / path).is_dir() else tmp_path / path
            with open(file, "a") as stream:
                stream.write("\n")
            assert pinned(PUBLISHED[name]()).data != here.data, path
            with pytest.raises(DataError, match=f"the files of {name} have changed since the study was made"):
                dataclasses.replace(there, sample_seed=number + 1).examples(split, language)  # not in the cache
            shutil.copy2(mini_root / file.relative_to(tmp_path), file)
        assert pinned(PUBLISHED[name]()).data == here.data

    def test_a_sample_has_its_size_and_all_candidates(self, name: str) -> None:
        task = PUBLISHED[name]()
        sizes = {"train": 5, "dev": 4, "test": 3}
        small = PUBLISHED[name](train_size=5, dev_size=4, test_size=3)
        other = dataclasses.replace(small, sample_seed=1)
        for split, language in task.splits():
            whole, sample = task.examples(split, language), small.examples(split, language)
            assert [example for example in whole if example in set(sample)] == list(sample)  # in the set's order
            candidates = [example for example in sample if is_candidate(example)]
            assert candidates == [example for example in whole if is_candidate(example)]
            assert len(sample) - len(candidates) == min(sizes[split], len(whole) - len(candidates))
        assert any(small.examples(*split) != other.examples(*split) for split in task.splits())

    def test_samples_of_parallel_test_sets_are_parallel(self, name: str) -> None:
        task, small = PUBLISHED[name](), PUBLISHED[name](test_size=3)
        languages = task.languages if task.role == "target" else ()
        whole, sampled = (
            [
                [example.id for example in read.examples("test", language) if not is_candidate(example)]
                for language in languages
            ]
            for read in (task, small)
        )
        if all(ids == whole[0] for ids in whole):
            assert all(ids == sampled[0] for ids in sampled)


def test_targets_with_one_training_set_share_a_training_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test sets and test languages do not change the model."""
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    assert pinned(XQuAD()).for_training() == pinned(Squad()).for_training() == pinned(Squad(dev_size=9)).for_training()
    assert pinned(Xnli()).for_training() == pinned(Xnli(languages_=("sw",), test_size=7)).for_training()
    assert pinned(Xnli(train_size=50)).for_training() != pinned(Xnli()).for_training()
    assert fingerprint(pinned(XQuAD())) != fingerprint(pinned(XQuAD(languages_=("de",))))


def test_a_commit_of_the_hub_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    before = pinned(Squad())
    assert "rajpurkar/squad@" in before.data
    assert "google/xquad@" in before.data  # its dev set leaves out XQuAD's paragraphs
    monkeypatch.setattr(revisions, "SQUAD", "0" * 40)
    assert fingerprint(pinned(Squad())) != fingerprint(before)
