"""Random networks under random edits, held against copies that are really built smaller."""
