"""Event tables in, a prepared data set out: ``spec`` says what, ``job`` runs check -> scan -> encode -> write on Ray.

The shuffle by user goes through storage in two passes (``encode`` partitions, ``write`` sorts and writes), so that memory
is bounded by one block or one bucket, never by the data, and the result depends on neither blocks nor workers.
"""
