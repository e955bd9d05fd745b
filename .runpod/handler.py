"""RunPod's Hub looks for a file of this name; it starts the worker as the image does."""

from handler.__main__ import main

main()
