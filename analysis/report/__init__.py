"""The HTML report of a study: its answer, sections, page and exported files."""
