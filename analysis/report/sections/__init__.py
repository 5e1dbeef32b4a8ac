"""One module per section of the report; each turns the findings into HTML."""
