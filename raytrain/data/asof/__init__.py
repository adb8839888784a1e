"""Columns of a row's strict past: ``past`` sums events up to a time, ``features`` makes columns of the sums."""
