"""The tutorial's door: `Model`, callbacks and metrics. Names of files are not known here."""
