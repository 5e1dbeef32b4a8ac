"""CoNLL-U (universaldependencies.org/format): syntactic words, or words as written with tags chosen as in XTREME."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables.data.examples import ReadResult, RejectedRow, TaggingExample
from trainables.data.formats.tagged import Block, blocks
from trainables.data.record import label_index
from trainables.data.source import DataError
from trainables.data.text import is_number

COLUMNS = 10
HIDDEN = "_"
# Priority of tags among words of equal depth in the tree: XTREME's `conllu_to_conll.py`.
TAG_RANKS = {
    "es": "VERB AUX PRON ADP DET".split(),
    "fr": "VERB AUX PRON NOUN ADJ ADV ADP DET PART SCONJ CONJ".split(),
    "it": "VERB AUX ADV PRON ADP DET INTJ".split(),
}
DEFAULT_RANKS = "VERB NOUN PROPN PRON ADJ NUM ADV INTJ AUX ADP DET PART CCONJ SCONJ X PUNCT".split()


@dataclass(frozen=True)
class Word:
    """A syntactic word; `heads` holds its head in the tree and its heads in the enhanced graph. 0 is the root."""

    line: int
    form: str
    upos: str
    xpos: str
    heads: tuple[int, ...]


@dataclass(frozen=True)
class Sentence:
    """Syntactic words, numbered from 1, and the forms of multiword tokens by first and last word."""

    id: str
    words: tuple[Word, ...]
    tokens: dict[tuple[int, int], str]


Tagged = list[tuple[str, str, int]]  # form, tag, line


def read_conllu(*paths: Path, tagged: Callable[[Sentence, Path], Tagged], labels: Sequence[str]) -> ReadResult:
    """The sentences of treebanks, with words and tags from `tagged` (`xpos_words` or `xtreme_words`).

    As in XTREME, a sentence whose text is withheld for its licence ("_" for all words, or all but one) is rejected.

    Raises:
        DataError: a line breaks a rule of the format, or a tag is unknown.
    """
    examples, rejected = [], []
    for path in paths:
        for block in blocks(path):
            words = tagged(_sentence(block, path), path)
            tags = tuple(labels[label_index(tag, labels, where=path, line=line)] for _, tag, line in words)
            if sum(form == HIDDEN for form, _, _ in words) >= max(1, len(words) - 1):
                rejected.append(RejectedRow(str(path), block.lines[0][0], f"sentence {block.id}: its text is withheld"))
            else:
                examples.append(TaggingExample(block.id, tuple(form for form, _, _ in words), tags))
    return ReadResult(tuple(examples), tuple(rejected))


def xpos_words(sentence: Sentence, path: Path) -> Tagged:
    """Syntactic words with the treebank's language-specific tags."""
    return [(word.form, word.xpos, word.line) for word in sentence.words]


def xtreme_words(sentence: Sentence, path: Path) -> Tagged:
    """Words as written, with universal tags, as in XTREME's UDPOS: "didn't" is one word.

    A multiword token gets the tag of its word nearest to the root (fewest ancestors, counting the enhanced graph); the
    language's ranks break ties. White space and zero-width non-joiners inside a word are dropped.
    """
    ranks = TAG_RANKS.get(path.name.partition("_")[0], DEFAULT_RANKS)
    tagged: Tagged = []
    covered = 0
    ends = {first: (last, form) for (first, last), form in sentence.tokens.items()}
    for number, word in enumerate(sentence.words, 1):
        if number <= covered:
            continue
        form, tag = word.form, word.upos
        if number in ends:
            covered, form = ends[number]
            depths = {part: len(_ancestors(sentence, part)) for part in range(number, covered + 1)}
            highest = [part for part, depth in depths.items() if depth == min(depths.values())]
            tags = [sentence.words[part - 1].upos for part in highest]
            tag = min(tags, key=lambda upos: ranks.index(upos) if upos in ranks else len(ranks))
        tagged.append(("".join(form.replace("\u200c", "").split(" ")), tag, word.line))
    return tagged


def _ancestors(sentence: Sentence, number: int) -> set[int]:
    ancestors: set[int] = set()
    pending = list(sentence.words[number - 1].heads)
    while pending:
        head = pending.pop()
        if head not in ancestors:
            ancestors.add(head)
            pending += sentence.words[head - 1].heads if head else ()
    return ancestors - {number}


def _sentence(block: Block, path: Path) -> Sentence:
    words: list[Word] = []
    tokens: dict[tuple[int, int], str] = {}
    for number, line in block.lines:
        columns = line.split("\t")
        if len(columns) != COLUMNS:
            raise DataError(path, number, f"{len(columns)} columns, expected the {COLUMNS} of CoNLL-U")
        name = columns[0]
        if span := re.fullmatch(r"(\d+)-(\d+)", name):
            tokens[int(span[1]), int(span[2])] = columns[1]
        elif is_number(name):
            if int(name) != len(words) + 1:
                raise DataError(path, number, f"word {name} follows word {len(words)}")
            words.append(Word(number, columns[1], columns[3], columns[4], _heads(columns, path, number)))
        elif not re.fullmatch(r"\d+\.\d+", name):  # an empty node, which only the enhanced graph has
            raise DataError(path, number, f"id {name!r} is neither a word, nor a range of words, nor an empty node")
    end = 0
    for first, last in sorted(tokens):
        if not 0 < first <= last <= len(words):
            raise DataError(path, block.lines[0][0], f"sentence {block.id}: no words for token {first}-{last}")
        if first <= end:
            raise DataError(path, block.lines[0][0], f"sentence {block.id}: token {first}-{last} begins inside another")
        end = last
    for word in words:
        if max(word.heads, default=0) > len(words):
            raise DataError(path, word.line, f"head {max(word.heads)} in a sentence of {len(words)} words")
    return Sentence(block.id, tuple(words), tokens)


def _heads(columns: list[str], path: Path, number: int) -> tuple[int, ...]:
    if not is_number(columns[6]):
        raise DataError(path, number, f"head {columns[6]!r} is not a number")
    enhanced = (edge.partition(":")[0] for edge in columns[8].split("|"))
    return (int(columns[6]), *(int(head) for head in enhanced if is_number(head)))


def treebanks(root: Path | None, language: str, split: Literal["train", "dev", "test"]) -> tuple[str, ...]:
    """Files of every treebank of a language under `ud/`, in the order of their names, as paths in the data root.

    If there are none, the pattern that was searched for.
    """
    pattern = f"ud/UD_*/{language}_*-ud-{split}.conllu"
    if root is None or not (files := sorted(root.glob(pattern), key=lambda path: path.name)):
        return (pattern,)
    return tuple(file.relative_to(root).as_posix() for file in files)
