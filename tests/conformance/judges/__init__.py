"""The judges, in the order of the table."""

import importlib

NAMES = ["autobahn", "h11", "llhttp", "h2"]


def module(name):
    return importlib.import_module(f"judges.{name.replace('-', '_')}")
