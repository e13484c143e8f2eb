"""What a config needs, and how fast it may run, on machines you do not have: all modelled."""
