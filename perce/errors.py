"""The base of every error that Attune raises on purpose.

Each package derives its own errors from `AttuneError`; the message of each says
what happened and what to do about it. The mapping to HTTP lives in `server.errors`.
"""


class AttuneError(Exception):
    """Something went wrong that Attune foresaw, and its message says what to do."""
