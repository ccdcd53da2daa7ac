"""What goes wrong between a model registry and us."""

from spinal.errors.base import SpinalError


class RegistryNotFound(SpinalError):
    code, title, status = "registry_not_found", "No such registry", 404
