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

# xP3, on which mT0 was trained in up to 46 languages, by the data set's card: question answering (MLQA, XQuAD, both parts of
# TyDi QA, SQuAD v2, Cosmos QA, Social IQa, CoS-E over CommonsenseQA), paraphrases (PAWS-X, QQP), translation (Tatoeba,
# Flores-200) and other tasks that are none of this study's. XNLI, ANLI, COPA and XCOPA were kept for evaluation; tagging is not
# in it.
_XP3 = (
    *("mlqa", "squad_dev", "squad_train", "tydiqa_en", "cosmos_qa", "siqa", "commonsense_qa"),
    *("pawsx", "qqp", "tatoeba", "bitext"),
)
# The languages that the data set's card lists (huggingface.co/datasets/bigscience/xP3), without program code.
_XP3_LANGUAGES = (
    *(
        "ak",
        "ar",
        "as",
        "bm",
        "bn",
        "ca",
        "en",
        "es",
        "eu",
        "fon",
        "fr",
        "gu",
        "hi",
        "id",
        "ig",
        "ki",
        "kn",
        "lg",
        "ln",
        "ml",
    ),
    *(
        "mr",
        "ne",
        "nso",
        "ny",
        "or",
        "pa",
        "pt",
        "rn",
        "rw",
        "sn",
        "st",
        "sw",
        "ta",
        "te",
        "tn",
        "ts",
        "tum",
        "tw",
        "ur",
        "vi",
    ),
    *("wo", "xh", "yo", "zh", "zu"),
)
_XP3_REMARK = (
    "it was trained on xP3, in many languages: scores on the tasks in it are not zero-shot; "
    "which splits it read is not verified"
)


def _mt0(*remarks: str) -> Card:
    """mT0: mT5 trained further on xP3. The hub's pages give the licence."""
    remark = "; ".join((_XP3_REMARK, *remarks))
    return Card("mean", seen=_XP3, labelled_languages=_XP3_LANGUAGES, licence=_APACHE, remark=remark)


KNOWN_CARDS: dict[str, Card] = {
    "FacebookAI/xlm-roberta-base": Card("first", licence=_MIT),
    "FacebookAI/xlm-roberta-large": Card("first", licence=_MIT),
    "facebook/xlm-roberta-xl": Card("first", licence=_MIT, remark=UNVERIFIED),
    "facebook/xlm-roberta-xxl": Card("first", licence=_MIT, remark=UNVERIFIED),
    **{f"google/mt5-{size}": Card("mean", licence=_APACHE, remark=remark) for size, remark in _MT5.items()},
    "bigscience/mt0-small": _mt0(UNVERIFIED),
    "bigscience/mt0-base": _mt0(),
    "bigscience/mt0-large": _mt0(),
    "bigscience/mt0-xl": _mt0(f"{PICKLED} (its pull request 2 has safetensors)"),
    "bigscience/mt0-xxl": _mt0(),
    "bigscience/mt0-xxl-p3": Card(
        "mean",
        # English tasks of T0's training mixture, recalled.
        seen=("cosmos_qa", "siqa", "commonsense_qa", "qqp"),
        labelled_languages=("en",),
        licence=_APACHE,
        remark="xP3's card says that it was trained on P3, in English alone; which tasks P3 holds is recalled and not "
        f"verified; {PICKLED}",
    ),
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
