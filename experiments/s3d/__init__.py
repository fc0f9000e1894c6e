"""Signed splitting (Wu and others 2020)."""
