"""Merged encoders against the formula written out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.networks import small_encoder
from trainables.models.encoder import load_encoder
from trainables.models.families import FAMILIES
from trainables.models.merging import write_merged
from trainables.models.stored_weights import StoredWeights
from trainables.models.task_model import ENCODER, save_encoder, save_encoder_files

WEIGHTS = "model.safetensors"


def _saved(folder: Path, family: str, count: int) -> tuple[Path, list[Path]]:
    """An encoder as it is imported, and others of its shape as trainings save them."""
    torch.manual_seed(0)
    save_encoder_files(small_encoder(family), folder / "base")
    trained = []
    for number in range(count):
        encoder = small_encoder(family)
        state = {f"encoder.{name}": parameter.detach() for name, parameter in encoder.named_parameters()}
        save_encoder(encoder, state, folder / f"trained-{number}")
        trained.append(folder / f"trained-{number}" / ENCODER)
    return folder / "base", trained


def _rounded(folder: Path, dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in load_file(folder / WEIGHTS).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def _by_hand(base: Path, trained: Sequence[Path], weights: Sequence[float]) -> dict[str, Tensor]:
    state = {name: value.to(torch.float32) for name, value in load_file(base / WEIGHTS).items()}
    merged = dict(state)
    for folder, weight in zip(trained, weights, strict=True):
        other = load_file(folder / WEIGHTS)
        merged = {name: merged[name] + (other[name].to(torch.float32) - state[name]) * weight for name in state}
    return merged


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.4 / 3, 0.4 / 3, 0.4 / 3), (1.5,)])
def test_a_merge_has_the_bits_of_the_formula_in_fp32(
    weights: tuple[float, ...], dtype: torch.dtype, tmp_path: Path
) -> None:
    base, trained = _saved(tmp_path, "xlm-roberta", len(weights))
    for folder in (base, *trained):
        _rounded(folder, dtype)
    count = write_merged(base, trained, weights, tmp_path / "merged")
    expected = _by_hand(base, trained, weights)
    merged = load_file(tmp_path / "merged" / WEIGHTS)
    assert merged.keys() == expected.keys()
    for name, value in merged.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name]), name
    assert count == sum(value.numel() for value in expected.values())


def test_half_of_each_of_two_changes_is_the_average(tmp_path: Path) -> None:
    base, trained = _saved(tmp_path, "xlm-roberta", 2)
    write_merged(base, trained, (0.5, 0.5), tmp_path / "merged")
    first, second = (load_file(folder / WEIGHTS) for folder in trained)
    for name, value in load_file(tmp_path / "merged" / WEIGHTS).items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_is_merged_and_read_back(family: str, tmp_path: Path) -> None:
    """An imported encoder and trained ones are saved under the same names, tied weights included."""
    base, trained = _saved(tmp_path, family, 2)
    write_merged(base, trained, (0.5, 0.5), tmp_path / "merged")
    first, second = (dict(load_encoder(folder).named_parameters()) for folder in trained)
    for name, value in load_encoder(tmp_path / "merged").named_parameters():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=1e-5, atol=1e-6)


def test_a_large_merge_is_written_in_several_files_as_it_is_computed(tmp_path: Path) -> None:
    base, trained = _saved(tmp_path, "xlm-roberta", 2)
    told: list[tuple[int, int]] = []
    write_merged(
        *(base, trained, (0.5, 0.5), tmp_path / "merged"),
        observe=lambda done, total: told.append((done, total)),
        max_file_bytes=20_000,
    )
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 2
    stored, expected = StoredWeights(tmp_path / "merged"), _by_hand(base, trained, (0.5, 0.5))
    assert set(stored.names) == expected.keys()
    for name in stored.names:
        assert torch.equal(stored.read(name), expected[name])
    assert told == [(number, len(expected)) for number in range(1, len(expected) + 1)]
    read = load_encoder(tmp_path / "merged")
    assert torch.equal(read.get_input_embeddings().weight, expected["embeddings.word_embeddings.weight"])


def test_encoders_of_other_shapes_and_names_are_refused(tmp_path: Path) -> None:
    base, (trained,) = _saved(tmp_path, "xlm-roberta", 1)
    state = load_file(trained / WEIGHTS)
    name = "embeddings.word_embeddings.weight"
    save_file({**state, name: state[name][:7].clone()}, trained / WEIGHTS)
    with pytest.raises(ValueError, match=rf"trained-0/encoder cannot be merged into .*base: {name} has shapes \(7, "):
        write_merged(base, [trained], (1.0,), tmp_path / "merged")
    save_file({key: value for key, value in state.items() if key != name}, trained / WEIGHTS)
    with pytest.raises(ValueError, match=rf"only one of them has {name} \(1 in all\)"):
        write_merged(base, [trained], (1.0,), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
