"""Texts that are answered with text: rows, templates and scores."""
