"""The login that guards the pages wherever another machine could open them.

The pages act with the gateway's admin key, so whoever opens them reads and changes everybody's
data: they ask for that key. On loopback they do not, since this machine's users can read it.
"""

import hmac
from ipaddress import ip_address

from pydantic import SecretStr

MESSAGE = (
    "<style>.main > .wrap { background: none !important; }</style>"
    "These pages act with the gateway's admin key. Any name, and that key as password."
)
"""What the login says, in HTML; our style sheet is kept back until somebody is let in."""


class Login:
    """Lets in who knows the key; nobody where there is none.

    Args:
        key: The key that the pages act with.
    """

    def __init__(self, key: SecretStr) -> None:
        self._key = key.get_secret_value().encode()

    def __call__(self, _name: str, password: str) -> bool:
        """Whether a password is the key."""
        return bool(self._key) and hmac.compare_digest(password.encode(), self._key)


def is_loopback(host: str) -> bool:
    """Whether an address that a server binds to can be reached from its own machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
