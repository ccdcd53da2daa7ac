# API, dispatcher, migrations and the operators' commands: no torch, so the image stays small and starts fast.
FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./
COPY spinal spinal
COPY service service
COPY worker worker
COPY migrations migrations
RUN pip install --no-cache-dir -c constraints.txt ".[dispatcher,telemetry,buckets,attest,s3,gcs]" \
 && python -m compileall -q spinal service worker migrations \
 && groupadd --system --gid 10001 spinal \
 && useradd --system --uid 10001 --gid 10001 --create-home spinal \
 && install -d -o spinal /var/lib/spinal/artifacts \
 && install -d -o spinal -m 700 /var/lib/spinal/scratch \
 && install -d -o spinal -m 700 /var/lib/spinal/models
# The installed package holds the science alone; service, worker and migrations run from here.
ENV PYTHONPATH=/app
# Where this image keeps things; what is set where it runs goes before.
ENV HOME=/home/spinal \
    SPINAL_ARTIFACT_URL=file:///var/lib/spinal/artifacts \
    SPINAL_SCRATCH_DIR=/var/lib/spinal/scratch \
    SPINAL_MODEL_STORE=/var/lib/spinal/models \
    SPINAL_MODEL_ROOTS=/models
# By number: "not root" can be held against it without reading the image's users.
USER 10001
CMD ["python", "-m", "service", "--host", "0.0.0.0", "--port", "8000"]
