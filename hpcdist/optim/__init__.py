"""Optimizers over one flat buffer of parameters, and learning rates as functions of the step."""
