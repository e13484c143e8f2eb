"""From a config to objects: the only room that reads a ConfigDict."""
