"""Folders on this host: ``local:PATH``, or a bare path on a command line."""

from collections.abc import Sequence
from pathlib import Path

from spinal.checkpoints.sources.base import Made, Pinned, Setting
from spinal.errors import (
    ModelNotFound,
    ModelPathRefused,
    ModelReferenceInvalid,
    NoModelRoots,
)


class Local:
    """Folders on this host. With roots a path must lie below one of them after symbolic links are followed, and a
    relative path is looked for below each."""

    def __init__(self, setting: Setting) -> None:
        self._roots = setting.roots

    def pin(self, path: str) -> Pinned:
        if not path:
            raise ModelReferenceInvalid(
                "model source 'local' is not configured here",
                hint="give local:PATH of a folder with safetensors weights",
            )
        if self._roots is not None:
            return _locate_below(path, self._roots)
        folder = _resolved(Path(path).expanduser())
        if folder is None or not folder.is_dir():
            raise ModelNotFound(f"no checkpoint folder at {path}", hint="check the path")
        return Pinned(f"local:{folder.name}", str(folder))


LOCAL = Made(Local)


def _locate_below(rest: str, roots: Sequence[Path]) -> Pinned:
    require_roots(roots)
    # What lies outside the roots is refused without looking, so that an answer never tells whether it exists.
    inside = False
    for root in (Path(root).resolve() for root in roots):
        target = _resolved(root / rest)
        if target is None:
            inside = True
            continue
        if target == root or not target.is_relative_to(root):
            continue
        inside = True
        if target.is_dir():
            return Pinned(f"local:{target.relative_to(root).as_posix()}", str(target))
    if inside:
        raise ModelNotFound(
            f"no checkpoint folder local:{rest} below the model roots", hint="check the name, or register the model"
        )
    raise ModelPathRefused(
        f"local:{rest} does not lie below the model roots", hint="use a path relative to a model root"
    )


def require_roots(roots: Sequence[Path]) -> None:
    """Raises NoModelRoots where a service has no folder of models, or none for this tenant."""
    if not roots:
        raise NoModelRoots(
            "this service has no folder for local: models",
            hint="ask an operator to set SPINAL_MODEL_ROOTS (or SPINAL_TENANT_MODEL_ROOTS) for API and workers",
        )


def _resolved(path: Path) -> Path | None:
    """``path`` without symlinks and ``..``; None for what no file system can hold (too long a name, a link loop)."""
    try:
        found = path.resolve()
        found.is_dir()
    except (OSError, RuntimeError, ValueError):
        return None
    return found
