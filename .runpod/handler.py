"""Starts the worker, as the Docker image does. RunPod's Hub requires a file of this name."""

from handler.__main__ import main

main()
