"""The shelf of algorithms: one file is one published method, filed under its family."""
