"""Random networks under random edits, compared with networks built at the new widths."""
