"""One module per question, from a study's frames to a table. No charts: nothing here loads Altair."""
