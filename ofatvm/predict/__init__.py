"""Predictors: tables and features of whole populations, latency and accuracy models."""
