"""Builds objects from a config: the only package that turns names into functions."""
