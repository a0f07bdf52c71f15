"""Methods that compare, combine or match the gradients of the domains."""
