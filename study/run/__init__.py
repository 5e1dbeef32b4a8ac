"""Runs a study: the driver and its phases, the output folder and its identity, the JSON document, the report.

| question | file |
|---|---|
| In which order do the phases of a run follow? | `driver` |
| Which study does an output folder hold? | `identity` |
| Who locks the folder, and what is left over in it? | `output_folder` |
| How are encoders made before the searches? | `pretraining` |
| What goes to MLflow about the study and its sizes? | `mlflow_records` |
| Where do MLflow's runs come from: recipe, commit, user? | `source` |
| Which of MLflow's pages does `study ui` link to? | `links` |
| What does `run` print last, and which failures does it name? | `document` |
| How is the report written and attached? | `report` |
| How many seeds and test examples does it take to tell a gain? | `detection` |
| How is peak memory measured? | `peak_memory` |
"""
