"""CONTRACT ONLY, replaced by the helper of `net`.

class Reachable (frozen dataclass):
    hosts: tuple[str, ...]        # host names, or "*.suffix"; those that may be asked at all
    private: tuple[str, ...] = () # of these hosts (exact host, or host:port) or networks (CIDR) addresses that are not public may be connected to
    def allows(self, host) -> bool

class Http:                        # safe to share between threads; context manager; close()
    def __init__(self, reachable: Reachable, *, connect_s=5.0, read_s=10.0, headers: Mapping[str, str] = {},
                 credentials: Mapping[str, str] = {}):
        # credentials: headers (Authorization, ...) sent to `origin` alone, dropped on a redirect to another host/port/scheme
    def stream(self, method, url, *, headers={}, redirects: int = 0, deadline: float | None = None)
        -> ContextManager[httpx.Response]
        # follows up to `redirects` redirects, each checked anew (https -> http refused); SourceRefused for hosts not listed /
        # addresses not allowed; SourceUnavailable for connect errors, timeouts, protocol errors, also inside iteration.
    def read(self, url, *, most_bytes, headers={}, redirects=0, deadline=None) -> Answer(status, headers, body)
        # whole body, bounded; SourceUnavailable where it is larger
"""
