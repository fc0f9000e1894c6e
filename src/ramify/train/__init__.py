"""Training, and the loops that grow, shrink and search networks while they train.

``epoch`` has the settings of training and one pass over the data; ``loop`` repeats it round after
round (`train`), and ``grow`` alternates it with edits, which ``rounds`` chooses and describes.
``search`` is the loop of a relaxed search; ``shrink`` scores channels in it by what
``width_search`` says, cuts them and trains on. All of them write their events and one checkpoint by
``history``, take their data as ``passes`` numbers it, and carry ``followers`` along.
"""
