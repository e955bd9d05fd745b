"""Installs everything the project needs into its own folder. Standard library only."""
