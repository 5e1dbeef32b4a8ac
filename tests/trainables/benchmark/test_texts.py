"""Queries as text."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from trainables.benchmark.scenarios.texts import tokens_per_word
from trainables.data.examples import BitextExample, PairExample, TaggingExample


def test_tokens_per_word_count_the_examples_own_texts_without_special_tokens() -> None:
    alphabet = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    by_byte = Tokenizer(BPE(alphabet, []))
    by_byte.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=by_byte)
    pairs = [PairExample("1", "ab cd", "efg", 0), PairExample("2", "h", None, 0)]
    assert tokens_per_word(pairs, "en", tokenizer) == (5 + 3 + 1) / 4  # a token per byte, including spaces
    assert tokens_per_word([BitextExample("1", "ab", "c d")], "de", tokenizer) == 2.0, "not the English side"
    assert tokens_per_word([TaggingExample("1", ("a", "b"), ("O", "O"))], "fi", tokenizer) == 1.5
    assert tokens_per_word(pairs, "zh", tokenizer) is None
    assert tokens_per_word([PairExample("1", " ", None, 0)], "en", tokenizer) is None
