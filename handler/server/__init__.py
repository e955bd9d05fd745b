"""The HTTP server for one machine: RunPod's job API, the alpha API and a page."""
