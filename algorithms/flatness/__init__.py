"""Methods by flat minima."""
