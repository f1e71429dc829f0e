"""The shipped configurations: a folder a cascade, a file a stage. Installed with `cascade`."""
