"""Tests of ailora.lab.statistics."""
