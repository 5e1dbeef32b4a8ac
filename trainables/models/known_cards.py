"""Cards of published checkpoints by repository. Each is complete, so that their own files are not needed to describe them."""

from __future__ import annotations

from trainables.models.card import Card

PICKLED = (
    "its main branch holds only a pickle (pytorch_model.bin), which is refused: convert it, or name another commit"
)
UNVERIFIED = "it is not verified that this commit holds safetensors"

_MIT, _APACHE = "MIT", "Apache-2.0"


def _e5(*, second_segment: bool | None = None, remark: str | None = None) -> Card:
    """Multilingual E5 (Wang et al. 2024, 2402.05672): mean pooling; texts began with "query: " or "passage: ".

    Its fine-tuning read translations (NLLB), retrieval data, NLI, Quora's question pairs, SQuAD and Mr. TyDi (the report's
    table of supervised data; Mr. TyDi's questions are TyDi QA's). Its pre-training read xP3, whose tasks are not listed here.
    """
    return Card(
        *("mean", second_segment, "query: ", "passage: "),
        seen=("bitext", "retrieval", "snli", "mnli", "qqp", "squad_train", "tydiqa_en"),
        licence=_MIT,
        remark=remark,
    )


# mmBERT's last training phase read instructions (Tulu FLAN, 1% of its tokens, says jhu-clsp/mmBERT-decay-data).
_MMBERT = Card(
    "mean",
    licence=_MIT,
    remark="its last pre-training phase read instruction data (Tulu FLAN), which hold English training sets of some tasks",
)
_MT5 = {
    **dict.fromkeys(("small", "large", "xl", "xxl"), UNVERIFIED),
    "base": PICKLED,
}

KNOWN_CARDS: dict[str, Card] = {
    "FacebookAI/xlm-roberta-base": Card("first", licence=_MIT),
    "FacebookAI/xlm-roberta-large": Card("first", licence=_MIT),
    "facebook/xlm-roberta-xl": Card("first", licence=_MIT, remark=UNVERIFIED),
    "facebook/xlm-roberta-xxl": Card("first", licence=_MIT, remark=UNVERIFIED),
    **{f"google/mt5-{size}": Card("mean", licence=_APACHE, remark=remark) for size, remark in _MT5.items()},
    "google-bert/bert-base-multilingual-cased": Card("first", True, licence=_APACHE),
    "distilbert/distilbert-base-multilingual-cased": Card("first", licence=_APACHE),
    "microsoft/mdeberta-v3-base": Card("first", licence=_MIT),
    # BertModel with XLM-R's tokenizer, "so AutoTokenizer won't work with this checkpoint" (its model card).
    "microsoft/Multilingual-MiniLM-L12-H384": Card(
        *("first", False), tokenizer="XLMRobertaTokenizer", licence=_MIT, remark=PICKLED
    ),
    "jhu-clsp/mmBERT-small": _MMBERT,
    "jhu-clsp/mmBERT-base": _MMBERT,
    "intfloat/multilingual-e5-small": _e5(second_segment=False),
    "intfloat/multilingual-e5-base": _e5(remark=UNVERIFIED),
}
