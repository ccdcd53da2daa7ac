"""The documents that a report is made of."""

from spinal.documents.comparison import Comparison
from spinal.documents.series import Series
from spinal.documents.trace import Trace

Reported = Trace | Comparison | Series
Judged = Comparison | Series
"""Those that say what a policy makes of them."""
