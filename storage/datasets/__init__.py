"""Readers of real datasets, one format a file, chosen in resolve.py."""
