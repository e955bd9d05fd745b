"""The worker: takes a job, runs the stored ComfyUI workflow, returns a transparent PNG."""

__version__ = "0.2.0"
