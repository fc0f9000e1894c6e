"""Relaxed search: gates and other architecture parameters, learned by gradients beside the weights.

Every searcher minimises parts of one Lagrangian (RARTS thesis, (2.11)):
`L(u, w, α) = L_p(u, α) + λ L_a(w, α) + β/2 ‖u − w‖² + γ P(α)`.
"""
