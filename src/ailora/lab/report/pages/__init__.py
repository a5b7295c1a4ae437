"""Self-contained HTML pages: of a comparison, and of a folder of runs."""
