"""Selection: which proposals to carry out."""

from ramify.select.rules import Rule, Threshold, TopFraction, TradeOff

__all__ = ["Rule", "Threshold", "TopFraction", "TradeOff"]
