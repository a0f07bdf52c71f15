"""Methods by penalties on and weights of the per-domain risks."""
