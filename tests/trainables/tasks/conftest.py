"""A miniature data root and the features of every task on it, built once for the suites over every task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import pytest
from transformers import PreTrainedTokenizerFast

from tests.support.mini_root.files import build
from tests.trainables.tasks.suite import LABELLED, Featurise, all_sets, features_of, make, texts_of
from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.evaluation import ExampleSet
from trainables.models.vocabulary import train_vocabulary
from trainables.tasks.base import Task


@pytest.fixture(scope="session")
def mini_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of every published task, in miniature."""
    folder = tmp_path_factory.mktemp("mini_root")
    build(folder)
    return folder


@pytest.fixture(scope="module")
def on_mini_root(mini_root: Path) -> Iterator[None]:
    """Tasks read the miniature data root, and faiss searches with one thread.

    Starting its threads takes longer than any search here: 12 s instead of 1 s for Tatoeba's draws.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATA_ROOT_VARIABLE, str(mini_root))
        yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="session")
def suite_tokenizer(mini_root: Path) -> PreTrainedTokenizerFast:
    """Knows every character of every task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATA_ROOT_VARIABLE, str(mini_root))
        sets = [(task, *named) for task in map(make, LABELLED) for named in all_sets(task)]
        examples = [example for task, split, language in sets for example in task.examples(split, language)]
    return train_vocabulary((text for example in examples for row in texts_of(example) for text in row), 4000)


@pytest.fixture(scope="session")
def featurise(suite_tokenizer: PreTrainedTokenizerFast) -> Featurise:
    """All sets of a task with their features, built once. Needs `on_mini_root`."""
    built: dict[str, list[ExampleSet]] = {}

    def features(task: Task) -> list[ExampleSet]:
        if task.name not in built:
            built[task.name] = [
                ExampleSet(split, language, examples, features_of(task, examples, suite_tokenizer))
                for split, language in all_sets(task)
                if (examples := task.examples(split, language))
            ]
        return built[task.name]

    return features
