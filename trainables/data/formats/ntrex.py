"""NTREX-128: English news with professional translations, as parallel text for pre-training.

No task scores on it. Tatoeba, XQuAD, XNLI and the treebanks are scored, and must not be used for pre-training.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

from trainables.data.digests import file_digest
from trainables.data.source import DataError, data_root
from trainables.data.text import aligned

ENGLISH = "en"
SOURCE = "newstest2019-src.eng.txt"
# XTREME-R's languages. NTREX lacks Haitian Creole (ht), Javanese (jv) and Quechua (qu); its Filipino is Tagalog here.
CODES: dict[str, str] = dict(
    pair.split(":")
    for pair in (
        "af:afr ar:arb az:aze-Latn bg:bul bn:ben de:deu el:ell es:spa et:est eu:eus fa:fas fi:fin fr:fra gu:guj he:heb "
        "hi:hin hu:hun id:ind it:ita ja:jpn ka:kat kk:kaz ko:kor lt:lit ml:mal mr:mar ms:msa my:mya nl:nld pa:pan pl:pol "
        "pt:por ro:ron ru:rus sw:swa ta:tam te:tel th:tha tl:fil tr:tur uk:ukr ur:urd vi:vie wo:wol yo:yor zh:zho-CN"
    ).split()
)


@dataclass(frozen=True)
class NtrexCorpus:
    """Identity of the corpus: its first `sentences` (None: all 1,997), in English and `languages`.

    `data` is the digest of the files, set by `pinned_corpus`.
    """

    languages: tuple[str, ...] = tuple(CODES)
    sentences: int | None = None
    data: str = ""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.languages) - {ENGLISH, *CODES})
        if unknown:
            raise ValueError(f"NTREX-128 has no {', '.join(unknown)}; there are {ENGLISH}, {', '.join(CODES)}")
        if self.sentences is not None and self.sentences < 1:
            raise ValueError(f"sentences is {self.sentences}: must be at least 1")

    def parallel(self) -> list[dict[str, str]]:
        """The text of each sentence by language, always including English.

        Raises:
            DataError: a file is missing, the files differ in length, or they changed after the corpus was pinned.
        """
        paths = self.paths()
        if self.data and self.data != _digest(paths):
            raise DataError(next(iter(paths.values())).parent, None, "the files have changed since the study was made")
        rows = (texts for _, texts in aligned(*paths.values()))
        sentences = [
            {language: text for language, text in zip(paths, texts, strict=True) if text.strip()} for texts in rows
        ]
        return [sentence for sentence in sentences[: self.sentences] if ENGLISH in sentence and len(sentence) > 1]

    def paths(self) -> dict[str, Path]:
        """The file of each language, English first.

        Raises:
            DataError: no data root is given, or it lacks files; the message names all of them.
        """
        root = data_root()
        if root is None:
            raise DataError("NTREX-128", None, "no data root for its files; give it with --data-root")
        names = {ENGLISH: SOURCE, **{code: f"newstest2019-ref.{CODES[code]}.txt" for code in self._translated()}}
        paths = {language: root / "ntrex" / name for language, name in names.items()}
        if absent := [path.name for path in paths.values() if not path.is_file()]:
            raise DataError(root / "ntrex", None, f"missing: {', '.join(absent)}")
        return paths

    def _translated(self) -> tuple[str, ...]:
        return tuple(language for language in dict.fromkeys(self.languages) if language != ENGLISH)


def pinned_corpus(corpus: NtrexCorpus) -> NtrexCorpus:
    """The corpus with the digest of its files under the data root as `data`.

    Raises:
        DataError: no data root is given, or it lacks files.
    """
    return dataclasses.replace(corpus, data=_digest(corpus.paths()))


def _digest(paths: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for language, path in paths.items():
        digest.update(f"{language}\0{file_digest(path)}\0".encode())
    return f"files:{digest.hexdigest()[:12]}"
