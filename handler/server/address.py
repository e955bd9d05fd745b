"""The address that the server listens on."""

import ipaddress

from handler.settings import Settings


class AddressNotAllowed(Exception):
    """The server would be open to everyone who can reach its address."""


def check_address(settings: Settings) -> None:
    """Raises AddressNotAllowed if other machines could use the server without an API key."""
    if not is_protected(settings):
        raise AddressNotAllowed(
            f"without API_KEYS the server listens on loopback only, LISTEN_HOST is {settings.listen_host};"
            " set API_KEYS, or ALLOW_WITHOUT_KEYS=true if something in front of it checks its callers"
        )


def is_protected(settings: Settings) -> bool:
    """Returns whether callers need a key, the address is loopback, or the settings allow the server to be open."""
    return bool(settings.keys()) or settings.allow_without_keys or is_loopback(settings.listen_host)


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
