"""Which tests of `make test` go to the same process."""

from __future__ import annotations

import pytest

from tests.support.side_by_side import group_of


@pytest.mark.parametrize(
    ("module", "group"),
    [
        ("tests/end_to_end/test_bucket.py", "tiny_run"),
        ("tests/trainables/benchmark/test_cut.py", "tiny_run"),
        ("tests/study/evidence/test_bundle.py", "tests/study/evidence"),
        ("tests/test_copies.py", "tests/test_copies.py"),
    ],
)
def test_modules_that_share_an_expensive_fixture_stay_together(module: str, group: str) -> None:
    assert group_of(module) == group
