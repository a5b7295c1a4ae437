"""Rows as they are found: files, folders and the hub, and what becomes of broken ones."""
