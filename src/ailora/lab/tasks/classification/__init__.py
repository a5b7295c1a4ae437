"""Texts with a class or a number: GLUE, the embedded reviews, files of your own."""
