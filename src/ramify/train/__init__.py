"""Training, and the loops that grow, shrink and search networks while they train.

``epoch`` has the settings of training and one pass over the data; ``loop`` repeats it round after
round (`train`), and ``grow`` alternates it with edits, which ``rounds`` chooses and describes.
``shrink`` cuts a trained network and tunes it, as ``cut_rounds`` says, and ``norm_statistics`` ends
it. ``search`` is the loop of a relaxed search, in which ``scored`` scores the channels to cut, by
the settings of ``width_search``. All of them write their events and one checkpoint by
``history``, take their data as ``passes`` numbers it, and carry ``followers`` along.
"""
