"""Adapters: what a trained model does with an unlabelled stream."""
