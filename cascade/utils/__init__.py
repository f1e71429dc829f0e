"""Used everywhere: chunks, seeds, whole files, locks, processes, values that are not finite."""
