"""Keyword spotting: DS-CNN on spoken digits, results and their commands."""
