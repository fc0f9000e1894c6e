"""Keyword spotting: DS-CNN on spoken digits, results and the commands that gave them."""
