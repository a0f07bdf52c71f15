"""Methods by mixing examples."""
