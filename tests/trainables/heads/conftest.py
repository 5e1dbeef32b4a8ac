"""A small tokenizer for the tests of masking."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from tests.support.recipes import LANGUAGES
from trainables.models.vocabulary import train_vocabulary
from trainables.tasks.micro.corpus import MicroCorpus


@pytest.fixture(scope="session")
def masking_tokenizer() -> PreTrainedTokenizerFast:
    corpus = MicroCorpus(LANGUAGES, 200).parallel()
    return train_vocabulary((text for texts in corpus for text in texts.values()), 600)
