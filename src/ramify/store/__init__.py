"""Networks and runs on disk, as safetensors and JSON, without pickle.

``model`` saves a network with its shape. ``checkpoint`` is the file from which a run resumes; its
contents are collected from networks, optimizers and random generators, and restored, by ``state``.
Both write through ``files``, atomically.
"""
