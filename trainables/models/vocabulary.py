"""A BPE vocabulary trained on the study's own pre-training text and shared by all sizes of a ladder."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
# Scripts written without spaces: one token a character with its combining marks, like the words of their tagging tasks.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"


def train_vocabulary(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of about `size` tokens with XLM-R's special tokens and pair format (`<s> a </s></s> b </s>`).

    A word delimited by white space has the same tokens alone and in its sentence: tagging (word by word) and pre-training
    (whole sentences) see the same tokens.
    """
    # BPE without a prefix on tokens inside words. With one (WordPiece), the trainer numbers tokens in the order of a hash map,
    # and every run gave a different vocabulary.
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(_UNSPACED), "isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL_TOKENS.values()), show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The trainer numbers the special tokens in the order given.
    start, end = (list(SPECIAL_TOKENS).index(name) for name in ("bos_token", "eos_token"))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", end), ("<s>", start), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", **SPECIAL_TOKENS, model_max_length=512
    )


# Letters with marks, full width, no spaces, right to left, digits: what normalisation and splitting may treat differently.
_PROBE = "Naïve Ａ1 25\u00a0kg, 数学 สวัสดี नमस्ते السلام."


def tokenizer_difference(tokenizer: PreTrainedTokenizerFast, other: PreTrainedTokenizerFast) -> str | None:
    """How a tokenizer differs from another in what an encoder reads; None where nothing shows a difference.

    Files of one tokenizer may differ in their form, so tokens with their numbers are compared, padding and a pair of texts.
    """
    if count := len(tokenizer.get_vocab().items() ^ other.get_vocab().items()):
        return f"their tokenizers differ in {count} tokens or their numbers"
    if tokenizer.pad_token_id != other.pad_token_id:
        return f"their tokenizers pad with token {tokenizer.pad_token_id} and {other.pad_token_id}"
    if tokenizer(_PROBE, _PROBE)["input_ids"] != other(_PROBE, _PROBE)["input_ids"]:
        return "their tokenizers split or normalise texts differently"
    return None
