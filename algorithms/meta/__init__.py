"""Methods that rehearse the shift, or condition on the domain, while they train."""
