"""Soft-label losses for image classifiers, and a trainer for RadImageNet, built around Online Label Smoothing."""

__version__ = "0.1.0"
