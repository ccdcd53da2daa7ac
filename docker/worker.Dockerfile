# Workers: torch, transformers, Celery. TORCH_INDEX picks the build of torch (empty = the default CUDA build).
FROM python:3.12-slim
ARG TORCH_INDEX=""
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./
COPY spinal spinal
COPY service service
COPY worker worker
COPY migrations migrations
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[worker,telemetry,buckets,s3,gcs]" \
 && useradd --system --uid 10001 spinal \
 && install -d -o spinal /var/lib/spinal/artifacts \
 && install -d -o spinal -m 700 /var/lib/spinal/models
# The installed package holds the science alone; service, worker and migrations run from here.
ENV PYTHONPATH=/app
USER spinal
CMD ["python", "-m", "celery", "-A", "worker.celery_app", "worker", "--queues", "cpu", "--concurrency", "1"]
