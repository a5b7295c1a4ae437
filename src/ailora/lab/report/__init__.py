"""From finished runs to what people look at: a table, figures, and one HTML page."""
