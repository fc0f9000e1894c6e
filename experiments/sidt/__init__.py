"""SiDT: pruning the dimensions of a Swin transformer (thesis of F. Xue, section 4.3)."""
