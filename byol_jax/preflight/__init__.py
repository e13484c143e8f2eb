"""What a config needs, and how fast it may run, on machines that are not there: all modelled."""
