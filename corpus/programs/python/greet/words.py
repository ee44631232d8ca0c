"""What is said."""

import unicodedata


def greeting(name: str) -> str:
    """A greeting for this name."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return f"hello, {plain}"
