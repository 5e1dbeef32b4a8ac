"""Everything about files that outlive a process: the stage store, manifests, fingerprints, locks and atomic writes.

| question | file |
|---|---|
| What is a stage's identity, and what may change without changing it? | `fingerprint` |
| Where is a stage, who may produce it, and which diverged? | `stage_store` |
| Which of the stores is an output folder's, and how does a bucket replace locks and renames? | `opening`, `bucket` |
| When is a folder finished, and how is damage found? | `manifests` |
| How is a file written whole or not at all? | `atomic` |
| How is a name from a bucket kept inside its folder? | `inside` |
| Does the file system have the locks that are needed? | `locks` |
| How are weights removed, and results kept? | `removal` |
| How are scores by example kept? | `examples` |
| How are the predictions and references that they are counted from? | `answers` |
| Which package versions does a result record? | `versions` |
"""
