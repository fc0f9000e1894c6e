"""The papers' measurements, repeated: one folder per paper, one command per experiment."""
