"""Errors raised at random lines of Ramify must leave the model unchanged or fully edited."""
