"""Keys: an address that may hold none, and texts that are told without them.

A key belongs into a variable of the environment, which an experiment's file names. Whoever writes it into the file
itself gets an error, and the error does not repeat it: errors are logged, and shown in the UI.
"""

import re
from urllib.parse import urlsplit

HIDDEN = "***"
"""What stands for a key."""
_SECRET_NAME = re.compile(
    r"(?:api|access|secret|private|auth)[_-]?key|^key$|password|passwd|secret|credential|bearer", re.IGNORECASE
)
_SECRET = re.compile(
    r"""
    (?<=://)[^/@\s'"]+(?=@)                                             # user:password of an address
    | (?<=bearer\ )[^\s'",}]+
    | (?<![A-Za-z0-9])(?-i:(?:sk|pk|rk|gsk|xai)[-_]|hf_|gh[a-z]_|AIza|AKIA)[A-Za-z0-9][A-Za-z0-9_-]{10,}  # known makers
    | (?<=[?&])(?:api[_-]?key|key|token|access_token)=[^&\s'"]+
    """,
    re.VERBOSE | re.I,
)


def is_secret_name(name: str) -> bool:
    """Whether a field of this name would hold a key; one that ends in `_env` names a variable.

    >>> [is_secret_name(name) for name in ("api_key", "openai_api_key", "max_tokens", "key")]
    [True, True, False, True]
    """
    return _SECRET_NAME.search(name) is not None


def hide_secrets(text: str) -> str:
    """A text in which what looks like a key is hidden.

    >>> hide_secrets("got 'http://me:pass@host/v1?api_key=abc'")
    "got 'http://***@host/v1?***'"
    """
    return _SECRET.sub(HIDDEN, text)


def check_base_url(base_url: str) -> str:
    """The URL of a server without slashes at its end.

    Raises:
        ValueError: it is no HTTP URL, or it holds a user, a query or a fragment, where keys are put; none is repeated.
    """
    try:
        address = urlsplit(base_url)
        parts = (address.username or address.password, address.query or address.fragment, address.hostname)
        _ = address.port
    except ValueError as error:
        raise ValueError(f"base_url is no address: {hide_secrets(str(error))}; write http://host:port/v1") from None
    for found, name in zip(parts, ("user", "query"), strict=False):
        if found:
            raise ValueError(f"base_url must not hold a {name}; put the key into a variable, named in api_key_env")
    if address.scheme not in ("http", "https") or not parts[2]:
        raise ValueError(f"base_url must be like http://127.0.0.1:8000/v1, got {hide_secrets(repr(base_url))}")
    return base_url.rstrip("/")
