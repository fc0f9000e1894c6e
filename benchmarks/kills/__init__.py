"""Commands that are killed and resumed repeatedly must give bit-identical results."""
