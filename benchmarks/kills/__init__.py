"""Commands that are killed again and again, and go on: does the same come out to the last bit?"""
