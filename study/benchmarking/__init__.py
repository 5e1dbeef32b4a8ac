"""The benchmark of a study: where each size's best model is measured, which measurements are stored, and their MLflow runs."""
