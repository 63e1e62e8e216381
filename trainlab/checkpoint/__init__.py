"""Saving a run so that nothing is lost when it dies, and going on from there to the last bit."""
