"""Trials where the front of accuracy against speed can still move: which size, and which choice of it, runs next.

| question | file |
|---|---|
| How much does a score add to the front? | `hypervolume` |
| What may an untried choice score? | `posterior` |
| What runs next, and which sizes are done? | `allocation` |
| Whose turn is it, when sizes search side by side? | `turns` |
"""
