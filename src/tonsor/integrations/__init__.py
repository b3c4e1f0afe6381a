"""Thin adapters for training frameworks; each needs its framework, and is imported only when asked for."""
