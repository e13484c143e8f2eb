"""From a config to objects: the only package that turns names into functions."""
