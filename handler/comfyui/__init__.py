"""ComfyUI as a child process, and the protocol that it speaks."""
