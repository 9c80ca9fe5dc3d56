"""Experiments outside of this machine: a store at any address of fsspec, and what is copied between it and a folder."""
