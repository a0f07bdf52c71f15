"""Methods by aligning the features of the domains."""
