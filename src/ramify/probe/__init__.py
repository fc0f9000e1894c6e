"""The probe: how the loss responds when one channel is edited, for all channels at once.

`loss` checks the user's per-sample loss, and `targets` says which groups can be probed. The loss is
run once and recorded; everything else is read off that record. A *replay* (`replay`) runs the
recorded operations again under autograd and can exchange what an operation reads; a *recorded pass*
(`recorded_pass`) instead keeps the values and the gradients of the one run. The first order is
`reads`: what each reader of a channel reads, and the gradient of its own read. The second order is
`splitting_matrix`: the replay, cut at the reads and with the *curvature* of piecewise-linear
activations put in (`curvature`), gives *products* of all splitting matrices with one vector a
channel, and from such products `lanczos` finds the extreme *eigenpairs* of every channel.
`displaced` follows displacements of finite length along a recorded pass.
"""
