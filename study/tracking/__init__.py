"""Results on their way to MLflow: written to an outbox on disk first, and sent from there.

| question | file |
|---|---|
| Which file writes to MLflow? | `mlflow_store`, and no other |
| What do the search and the benchmark call? | `tracker` |
| Where does a result wait until a server takes it? | `outbox` |
| When is it sent, and what happens while the server is away? | `sender` |
| How does another store get everything (`study sync`)? | `sync` |
| What do MLflow's pages say about the study and its runs? | `notes` |
| Which runs and columns do they show? | `views` |
| Which of MLflow's pages does `study ui` link to? | `links` |
| What are a trial's scores by example? | `examples` |
| Where do the runs come from: recipe, commit, user? | `source` |
"""
