"""One module per command: read inputs, call the pure rooms, write outputs."""
