"""Networks and runs on disk, as safetensors and JSON: no code is ever pickled.

``model`` saves a network with its shape; ``checkpoint`` is the one file that every run goes on
from, whose contents ``state`` takes from networks, optimizers and random generators and gives back.
Both write by ``files``: whole files or none.
"""
