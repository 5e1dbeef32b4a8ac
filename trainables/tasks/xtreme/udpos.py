"""UDPOS: universal part-of-speech tags in 38 languages, with XTREME-R's treebanks. (Nivre et al. 2018)"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from trainables.data.formats.conllu import read_conllu, treebanks, xtreme_words
from trainables.data.formats.tagged import read_tag_rows
from trainables.data.source import Files, Hub, Source, data_root
from trainables.tasks.base import HeadName, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import HUB_SPLITS, check_split

UPOS = tuple("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())
XTREME_LANGUAGES = tuple(
    "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh".split()
)


@dataclass(frozen=True)
class Udpos(PublishedTask):
    """All treebanks of a language together, words as written, as in XTREME's `download_data.sh`.

    XTREME takes release 2.5, and XTREME-R takes 2.7 for its five additional languages. From files, every treebank under `ud/`
    is read; for the published task, put those of the two releases there. The score is seqeval's F1 over tags, not accuracy.
    """

    name: ClassVar[str] = "udpos"
    head: ClassVar[HeadName] = "tagging"
    metric: ClassVar[str] = "span_f1"
    labels: ClassVar[tuple[str, ...]] = UPOS
    official_languages: ClassVar[tuple[str, ...]] = (*XTREME_LANGUAGES, "lt", "pl", "uk", "wo", "ro")
    source: ClassVar[str] = "Universal Dependencies, every treebank of a language; on the hub izhx/xtreme-r-udpos"
    reads: ClassVar[frozenset[str]] = frozenset({"ud_ewt"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        revision = "d0863a53a290c35d469310234e97461ea025287a"
        return Source(
            Files(
                treebanks(data_root(), language, split), partial(read_conllu, tagged=xtreme_words, labels=self.labels)
            ),
            Hub(
                "izhx/xtreme-r-udpos",
                language,
                HUB_SPLITS[split],
                revision,
                partial(read_tag_rows, tags="pos_tags", labels=self.labels),
            ),
        )

    def chance(self) -> float:
        return 100.0 / len(
            self.labels
        )  # a random tag for each word; slightly less in fact, because equal neighbours merge
