"""A study as tables: what is read from MLflow, and the names of the quantities in it."""
