"""How long a running study still takes: what is missing of it, times how long such things took so far.

| question | file |
|---|---|
| How long does a stage take? | `stage_times` |
| Which trials and repeats are to come? | `trials` |
| Which benchmarks are to come, and how long do they take? | `benchmarks` |
| How long do sizes take side by side, and how is that said? | `time_left` |
| What is left of the whole study, or after one more trial? | `study_estimate` |
"""
