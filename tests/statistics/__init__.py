"""Tests of ailora.statistics."""  # noqa: A005
