"""The cluster that a run uses: what the study's workers request of it, and how many trials it holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from study.benchmarking.placement import placement_of
from study.cluster.connection import cluster_address, connected
from study.cluster.fit import (
    cores_per_trial,
    empty_nodes,
    max_concurrent_trials,
    slot_amounts,
    with_memory,
    with_placement,
)
from study.cluster.gpus import with_accelerators
from study.cluster.preflight import check_local_start
from study.planning.worker_memory import worker_gb
from study.search.slots import Slots
from study.spec import Study
from trainables.data.hub import HUB_VARIABLES
from trainables.store.bucket.client import storage_variables
from trainables.store.bucket.location import url_of
from trainables.store.locks import one_node_problem


@contextmanager
def fitted_to_cluster(
    study: Study, output: Path, *, address: str | None, say: Callable[[str], object]
) -> Iterator[tuple[Study, Slots]]:
    """Connect to Ray in this block, and refuse the study at once if a size or the benchmark can never get its nodes.

    Yields the study with what its workers request of this cluster, GPUs, memory and placement, and the slots.

    Raises: as `connected` and `slot_amounts` do.
    """
    sizes = study.sizes
    if cluster_address(address) is None:
        for warning in check_local_start():
            say(warning)
    in_bucket = url_of(output) is not None
    access = (*HUB_VARIABLES, *(storage_variables() if in_bucket else ()))
    with connected(address, cpus=max(cores_per_trial(size.resources) for size in sizes), access=access):
        if not in_bucket and (problem := one_node_problem(output)):
            say(f"{problem}: its locks may hold on one node only; two nodes could train the same stage")
        sizes = with_accelerators(sizes, say=say)
        amounts = slot_amounts(sizes, address, say=say)
        needed_gb = {size.name: worker_gb(study, size) for size in sizes}
        sizes = with_placement(with_memory(sizes, needed_gb, say=say), say=say)
        slots = Slots(amounts, max_concurrent_trials(sizes), empty_nodes(sizes))
        if study.benchmark.variants:
            placement_of(study.benchmark)
        yield dataclasses.replace(study, sizes=sizes), slots
