"""Runs a study: the driver and its phases, the output folder and its identity, the JSON document, the report."""
