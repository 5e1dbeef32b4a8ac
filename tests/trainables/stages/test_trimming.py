"""Stages that trim: a tuned model reads every word, a mixture keeps the words of all its tasks, pre-training never trims."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.support.networks import embedding_of
from tests.support.recipes import LANGUAGES, SMALL
from trainables.hyperparameters import Training
from trainables.models.encoder import Shape, load_encoder
from trainables.models.task_model import ENCODER, load_task_model
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.stages.finetune import FineTune
from trainables.stages.mixture import FineTuneMixture
from trainables.stages.pretrain import Pretrain
from trainables.stages.vocabulary import Vocabulary
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.intermediate import MicroParaphrase, MicroTopic
from trainables.tasks.micro.tagging import MicroTagging
from trainables.tasks.mixture import Mixture

pytestmark = pytest.mark.usefixtures("one_thread")

TUNING = Training(learning_rate=3e-3, steps=8, batch_size=16, seed=1)
BASE = Pretrain(
    Vocabulary(MicroCorpus(LANGUAGES, 200), 600), Shape(1, 32), dataclasses.replace(TUNING, batch_size=2, steps=2), 8
)


@pytest.fixture(scope="module")
def workplaces(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Workplace]:
    """A store whose stages trim, and one whose stages do not."""
    return {
        trims: Workplace(
            StageStore(tmp_path_factory.mktemp(f"trims-{trims}")), resources=Resources(trim_vocabulary=trims)
        )
        for trims in (True, False)
    }


def test_pre_training_never_trims(workplaces: dict[bool, Workplace]) -> None:
    """Masked words are scored over the whole table, so both trainings must be identical."""
    for work in workplaces.values():
        metrics = ensure(BASE, work).metrics
        assert "embedding_rows_trained" not in metrics
    trimmed, whole = (load_encoder(work.store.folder(BASE) / ENCODER) for work in workplaces.values())
    assert torch.equal(trimmed.get_input_embeddings().weight, whole.get_input_embeddings().weight)


def test_a_tuned_model_reads_words_that_training_never_saw(workplaces: dict[bool, Workplace]) -> None:
    stage = FineTune(BASE, MicroTagging(languages_=LANGUAGES, **SMALL), TUNING)
    logits = {}
    for trims, work in workplaces.items():
        rows = ensure(stage, work).metrics["embedding_rows_trained"]
        model = load_task_model(work.store.folder(stage), stage.task)
        size = embedding_of(model).num_embeddings
        unseen = sorted({*range(size)} - {*stage.features.table(work).token_ids().tolist()})
        assert (rows < size) is trims
        assert len(unseen) > size // 4
        ids = torch.tensor([unseen])
        logits[trims] = model.logits(ids, torch.ones_like(ids)).detach()
    # Sums over 32 and more weights that agree to 1e-6 of the way.
    torch.testing.assert_close(logits[True], logits[False], rtol=0.0, atol=1e-5)


def test_a_mixture_is_trimmed_to_the_words_of_all_its_tasks(workplaces: dict[bool, Workplace]) -> None:
    tasks = (MicroTopic(**SMALL), MicroParaphrase(**SMALL))
    stage = FineTuneMixture(BASE, Mixture("mix", tasks), TUNING)
    weights = {}
    for trims, work in workplaces.items():
        rows = ensure(stage, work).metrics["embedding_rows_trained"]
        words = {word for part in stage.features for word in part.table(work).token_ids().tolist()}
        if trims:
            assert rows == len(words | {load_encoder(work.store.folder(BASE) / ENCODER).config.pad_token_id})
        weights[trims] = load_encoder(work.store.folder(stage) / ENCODER).state_dict()
    assert weights[True].keys() == weights[False].keys()
    for name, value in weights[False].items():
        torch.testing.assert_close(weights[True][name], value, rtol=0.0, atol=1e-6, msg=name)
