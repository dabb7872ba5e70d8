"""Scores and answers → records, tables and pictures."""
