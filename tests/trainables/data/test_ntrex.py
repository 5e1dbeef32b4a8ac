"""NTREX as a parallel corpus: languages, missing or changed files."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.data.formats.ntrex import NtrexCorpus, pinned_corpus
from trainables.data.source import DATA_ROOT_VARIABLE, DataError


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def ntrex(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(root))
    folder = root / "ntrex"
    folder.mkdir()
    written(folder / "newstest2019-src.eng.txt", "One.", "Two.", "Three.")
    written(folder / "newstest2019-ref.deu.txt", "Eins.", "", "Drei.")
    written(folder / "newstest2019-ref.zho-CN.txt", "一。", "二。", "三。")
    return folder


def test_ntrex_reads_side_by_side_with_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ntrex(tmp_path, monkeypatch)
    assert NtrexCorpus(("de", "zh"), sentences=2).parallel() == [
        {"en": "One.", "de": "Eins.", "zh": "一。"},
        {"en": "Two.", "zh": "二。"},
    ]
    assert NtrexCorpus(("en", "de")).parallel() == [{"en": "One.", "de": "Eins."}, {"en": "Three.", "de": "Drei."}]


def test_ntrex_files_that_lack_or_differ_or_change_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ntrex(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"ntrex: missing: newstest2019-ref\.ita\.txt, newstest2019-ref\.fra\.txt"):
        NtrexCorpus(("it", "de", "fr")).parallel()
    pinned = pinned_corpus(NtrexCorpus(("de",)))
    assert pinned.data.startswith("files:")
    assert len(pinned.parallel()) == 2
    written(folder / "newstest2019-ref.deu.txt", "Eins.", "Zwei.", "Drei.")
    with pytest.raises(DataError, match="have changed since"):
        pinned.parallel()
    written(folder / "newstest2019-ref.deu.txt", "Eins.", "Zwei.")
    with pytest.raises(DataError, match=r"newstest2019-ref\.deu\.txt:2: ends here"):
        NtrexCorpus(("de",)).parallel()
    monkeypatch.delenv(DATA_ROOT_VARIABLE)
    with pytest.raises(DataError, match="--data-root"):
        pinned.parallel()


def test_ntrex_has_no_haitian() -> None:
    with pytest.raises(ValueError, match="NTREX-128 has no ht; there are en, af"):
        NtrexCorpus(("ht", "de"))
    with pytest.raises(ValueError, match="sentences is 0"):
        NtrexCorpus(sentences=0)
