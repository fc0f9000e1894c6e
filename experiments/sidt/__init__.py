"""SiDT: the dimensions of a Swin transformer, pruned (thesis of F. Xue, section 4.3)."""
