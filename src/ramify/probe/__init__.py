"""The probe: the response of the loss to edits of single channels, for all channels at once.

`loss` checks the user's per-sample loss, and `targets` determines which groups can be probed. The
loss is run once and recorded; everything else uses that record. A *replay* (`replay`) runs the
recorded operations again with autograd and can replace what an operation reads; a *recorded pass*
(`recorded_pass`) instead keeps the values and the gradients of the one run. First-order quantities
are in `reads`: what each reader of a channel reads, and the gradient of its own read. Second-order
quantities are in `splitting_matrix`: the replay, cut at the reads and with *curvature* added to
piecewise-linear activations (`curvature`), gives *products* of all splitting matrices with one
vector per channel, and from such products `lanczos` finds the extreme *eigenpairs* of every
channel. `displaced` propagates finite displacements along a recorded pass.
"""
