"""What was measured beside what the papers say: as a page, in a terminal, in the READMEs."""
