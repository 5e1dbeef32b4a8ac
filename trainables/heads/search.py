"""Exact nearest-neighbour search by inner product."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def nearest(queries_QD: Vectors, candidates_CD: Vectors, count: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Inner products and rows of the K = min(count, C) nearest candidates to each query, best first: both (Q, K).

    `count` is capped because faiss fills up with row -1 when asked for more candidates than there are.
    """
    index = faiss.IndexFlatIP(candidates_CD.shape[1])
    index.add(np.ascontiguousarray(candidates_CD, dtype=np.float32))
    scores_QK, rows_QK = index.search(
        np.ascontiguousarray(queries_QD, dtype=np.float32), min(count, len(candidates_CD))
    )
    return scores_QK, rows_QK
