# API and migrations: no torch, so the image stays small and starts fast.
FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./
COPY spinal spinal
COPY service service
COPY worker worker
COPY migrations migrations
RUN pip install --no-cache-dir -c constraints.txt ".[service,telemetry,buckets,s3,gcs]" \
 && useradd --system --uid 10001 spinal \
 && install -d -o spinal /var/lib/spinal/artifacts \
 && install -d -o spinal -m 700 /var/lib/spinal/models
# The installed package holds the science alone; service, worker and migrations run from here.
ENV PYTHONPATH=/app
USER spinal
CMD ["python", "-m", "service", "--host", "0.0.0.0", "--port", "8000"]
