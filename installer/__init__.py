"""Installs what the project runs on into its own folder; standard library only."""
