"""A finite displacement of every channel at once, propagated through the network.

A binary split replaces a channel's kernel θ by the copies θ + v and θ − v, each read with half the
weight. Every tensor T on the way is a function T(v) of the displacement, with T(0) its *base*, and
is described by its standard parts about that base:

    odd part   ½ [T(v) − T(−v)]            even part   ½ [T(v) + T(−v)] − T(0)

A reader of both copies sees T(0) plus the even part. `tensor` has these forms and computes each on
first use, `linear` has rules for linear operations on them, `even` has even parts that need not be
materialised, `product` those of products of activations, `components` finds what must be followed
together, `along_tape` propagates displacements over the recorded operations, and `read_changes`
sums the changes at the readers times the gradients.
"""
