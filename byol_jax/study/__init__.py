"""Studies: several runs, judged alike, in one table beside what was published."""
