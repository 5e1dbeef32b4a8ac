"""A seeded monkey against whole studies: `tests/benchmarks/chaos.py` is its command.

`plan` draws faults, `lab` has what a study runs on, `processes` its processes, `monkey` strikes and mends, `rounds` runs the
study until it is finished, `evidence` reads what that left, and `invariants` checks it.
"""
