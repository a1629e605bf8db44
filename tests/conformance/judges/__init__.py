"""The judges, in the order of the table."""

import importlib

NAMES = ["autobahn", "websockets", "ws", "wsproto", "h11", "llhttp", "h2", "grpc-health", "promtool", "schemathesis", "slowhttptest", "testssl"]


class Unloadable:
    """A judge that cannot be imported for want of a package."""

    SCHEME = None

    def __init__(self, package):
        self.package = package
        self.__doc__ = f"It needs the Python package {package}."

    def missing(self):
        return [f"{self.package} (PyPI; scripts/setup installs it)"]


def module(name):
    try:
        return importlib.import_module(f"judges.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        return Unloadable(error.name)
