"""The folder of published data files, which some tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA_ROOT = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA_ROOT.is_dir(), reason=f"no published files in {DATA_ROOT}")
