"""Reports about a run: its status, and a picture of its views."""
