"""Random features to train on, and a store with a pre-trained encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import recipes
from tests.support.networks import random_features
from trainables.heads.features import FeatureTable, read_features
from trainables.stages.base import Workplace, ensure
from trainables.store.stage_store import StageStore


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their file, which every process of a training reads itself."""
    return random_features(tmp_path_factory.mktemp("features") / "features.arrow")


@pytest.fixture(scope="session")
def feature_table(features: Path) -> FeatureTable:
    return read_features(features)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the encoder of the tiny study's first size, for copies."""
    root, study = tmp_path_factory.mktemp("pretrained"), recipes.tiny()
    ensure(study.encoder_stage(study.sizes[0]), Workplace(StageStore(root)))
    return root


@pytest.fixture(scope="module")
def base(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the module's own that holds the pre-trained encoder."""
    return shutil.copytree(pretrained, tmp_path_factory.mktemp("base"), dirs_exist_ok=True)
