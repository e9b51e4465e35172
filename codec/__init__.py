"""Lossless image coding: image files, containers, and the coders between them."""
