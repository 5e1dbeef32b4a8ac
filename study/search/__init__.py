"""Hyperparameter search: one Ray Tune sweep per encoder size, then repeats of its winners with further seeds.

| question | file |
|---|---|
| What does a trial run, and how does it end? | `trial` |
| Which outcomes and scores does a search leave behind? | `records` |
| Where are trials stored, and how does a search resume? | `trial_store`, in the file of `journal` |
| Which choice is tried next? | `suggestions` |
| What does Tune ask for the next trial? | `searcher` |
| Which trials stop early? | `asha`, asked by `scheduler` |
| How does one size search and repeat? | `sweep` |
| How do sizes search side by side? | `parallel`, with `slots` for the number of trials of each |
| What do the console and MLflow get? | `callback`, `tables` |
"""
