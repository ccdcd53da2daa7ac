"""What the process stands on: artifact store, logs, telemetry."""
