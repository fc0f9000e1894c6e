"""Errors raised at random lines of Ramify: is the model as it was, or as it was to be?"""
