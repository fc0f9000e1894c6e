"""The solvable model of the RARTS thesis, Examples 2.4 and 2.7, and Figure 2.1."""
