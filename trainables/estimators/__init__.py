"""Estimators: what an intermediate task will be worth to a target, before the target is trained.

| question | file |
|---|---|
| Which vectors and labels does an estimator see of a task? | `units`, `vectors` |
| What is an estimate, and what does its stage hold? | `base` |
| How well does a Bayesian linear model explain the target's labels? | `logme` |
| How well does a linear probe score on English dev? | `probe` |
| The same as `logme`, from the base encoder and a small map for each intermediate task? | `embedding_map` |
| How alike are the tasks' texts? | `text_similarity` |

All read English training data and English dev sets alone. `logme` and `probe` say how ready an encoder is for a target, so they
compare intermediate tasks by the encoders after them, and by the base encoder for none. `ESTIMATORS` is in `registry`.
"""
