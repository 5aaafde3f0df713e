"""The demonstration: the whole pipeline on a synthetic person and on one real photograph, ending in a report."""
