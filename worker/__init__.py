"""Celery workers and the dispatcher. Only worker children import torch."""
