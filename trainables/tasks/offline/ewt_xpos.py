"""Fine-grained English part-of-speech tags of UD English-EWT, a free stand-in for CCG supertagging."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainables.data.examples import ReadResult
from trainables.data.formats.conllu import Sentence, Tagged, read_conllu, xpos_words
from trainables.data.source import Files, Source
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split

# The Penn Treebank's tags with the additions of the English Web Treebank's guidelines (AFX to NFP, HYPH).
XPOS = tuple(
    "$ '' , -LRB- -RRB- . : ADD AFX CC CD DT EX FW GW HYPH IN JJ JJR JJS LS MD NFP NN NNP NNPS NNS PDT POS PRP PRP$ RB RBR "
    "RBS RP SYM TO UH VB VBD VBG VBN VBP VBZ WDT WP WP$ WRB ``".split()
)


@dataclass(frozen=True)
class EwtXpos(PublishedTask):
    """Tags are written "B-tag": each word is one span, so that span F1 is the accuracy over words."""

    name: ClassVar[str] = "ewt_xpos"
    head: ClassVar[HeadName] = "tagging"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "span_f1"
    labels: ClassVar[tuple[str, ...]] = tuple(f"B-{tag}" for tag in XPOS)
    source: ClassVar[str] = "Universal Dependencies, UD_English-EWT, column XPOS"
    reads: ClassVar[frozenset[str]] = frozenset({"ud_ewt"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        return Source(Files((f"ud/UD_English-EWT/en_ewt-ud-{split}.conllu",), read_xpos), None)

    def chance(self) -> float:
        return 100.0 / len(self.labels)


def read_xpos(path: Path) -> ReadResult:
    return read_conllu(path, tagged=_words, labels=EwtXpos.labels)


def _words(sentence: Sentence, path: Path) -> Tagged:
    return [(form, f"B-{tag}", line) for form, tag, line in xpos_words(sentence, path)]
