"""A finite displacement of every channel at once, carried along the network.

A binary split replaces a channel's kernel θ by the copies θ + v and θ − v, each read with half the
weight. Every tensor T on the way is a function T(v) of the displacement, with T(0) its *base*, and
is described by its standard parts about that base:

    odd part   ½ [T(v) − T(−v)]            even part   ½ [T(v) + T(−v)] − T(0)

What a reader of both copies sees is T(0) plus the even part. `tensor` holds these forms and makes
each when it is first asked for, `linear` says how linear operations act on them, `even` holds even
parts that need not be written out, `product` those of products of activations, `components` finds
what must be followed together, `along_tape` carries displacements over the recorded operations, and
`read_changes` sums what the readers see against the gradients.
"""
