"""Data: the catalogue of real data sets, their splits and their loaders."""
