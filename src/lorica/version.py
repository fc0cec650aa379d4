"""The version of Lorica, as packages, records and pages state it."""

__version__ = "0.1.0"
