"""Bundles of evidence: what a study measured as one file, which anybody can check without a model, and which can be merged.

| question | file |
|---|---|
| How is a file of many members written, and read without trusting it? | `archive` |
| What is where in a bundle? | `bundle` |
| What of an output folder goes into a bundle? | `export` |
| Which faults does a bundle have? | `verify` |
| How is a score computed again from predictions and references? | `recount` |
| Do the study's tables agree with its evaluations and measurements? | `agreement` |
| Did the smaller model of a cascade answer what it should? | `cascades` |
| Was each trial trained as its row says? | `labels` |
| How do the runs of several bundles become one? | `merge` |
"""
