"""Runs the server or the worker under load and faults, and checks that no job is lost or doubled."""
