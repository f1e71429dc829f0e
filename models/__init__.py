"""The shipped models: a cascade folder each. Installed with `cascade`."""
