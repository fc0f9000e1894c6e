"""What the papers measured, measured again: one folder for each paper, one command each."""
