"""Iterative step-level Process Refinement (IPR, arXiv 2406.11176): improve an LLM agent from its own mistakes."""

__version__ = "0.1.0"
