"""From the comparisons of a series' members and a policy to its document."""

from spinal.policy.series.assess import Member, assess

__all__ = ["Member", "assess"]
