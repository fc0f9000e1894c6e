"""Training, and the loops that grow, shrink and search networks while they train.

``epoch`` defines the training settings and one pass over the data. ``loop`` repeats it over rounds
(`train`), and ``grow`` alternates it with edits, which ``rounds`` chooses and describes. ``shrink``
cuts a trained network by the settings in ``cut_rounds``, fine-tunes it, and finally recomputes its
``norm_statistics``. ``search`` is the loop of a relaxed search; ``scored`` uses it to score the
channels to cut, by the settings in ``width_search``. All of them write their events and one
checkpoint with ``history``, read the data pass by pass with ``passes``, and edit ``followers``
along with the network.
"""
