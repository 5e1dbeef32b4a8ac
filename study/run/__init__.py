"""Runs a study: the driver and its phases, the output folder and its identity, the JSON document, the report.

| question | file |
|---|---|
| In which order do the phases of a run follow? | `driver` |
| Which study does an output folder hold? | `identity` |
| Who locks the folder, and what is left over in it? | `output_folder` |
| How is the output kept in a bucket, and read from there? | `bucket` |
| What does the run request of the cluster? | `cluster` |
| How are encoders made before the searches? | `pretraining` |
| Which default cells does a search start with? | `first_trials`, by estimates that `ranking` builds |
| Does a trial still fit the budget of time or money, and what is spent of it? | `budget` |
| What goes to MLflow about the study and its sizes? | `mlflow_records` |
| What does `run` print last, and which failures does it name? | `document` |
| What does the console show while it runs? | `status` |
| Which models are removed? | `cleaning` |
| How is the report written and attached? | `report` |
| How is peak memory measured? | `peak_memory` |
"""
