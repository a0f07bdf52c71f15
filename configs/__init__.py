"""Hydra configuration of the commands; Hydra finds this folder as `pkg://dgbench.configs`."""
