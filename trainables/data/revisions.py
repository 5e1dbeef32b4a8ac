"""Commits of data sets on the hub that several tasks read."""

COSMOS_QA = "ed50fe83db62b355759053b1cd5eef344ee371e0"  # of refs/convert/parquet: main holds a loading script
HELLASWAG = "218ec52e09a7e7462a5400043bb9a69a41d06b76"
SNLI = "cdb5c3d5eed6ead6e5a341c8e56e669bb666725b"
SQUAD = "7b6d24c440a36b6815f21b70d25016731768db1f"
SQUAD2 = "3ffb306f725f7d2ce8394bc1873b24868140c412"
XNLI = "b8dd5d7af51114dbda02c0e3f6133f332186418e"
