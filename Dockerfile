# A worker, or with another command whatever starter.py does: docker build -t artifact-deletion .
# Where trace items are deleted through Snuba: --build-arg REQUIREMENTS=deploy/requirements-snuba.txt
FROM python:3.13-slim AS build
ARG REQUIREMENTS=deploy/requirements.txt
WORKDIR /source
COPY . .
RUN python -m venv /worker \
 && /worker/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r "$REQUIREMENTS" \
 && /worker/bin/pip install --no-cache-dir --no-deps . \
 && /worker/bin/pip uninstall --yes pip

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home worker
COPY --from=build /worker /worker
ENV PATH=/worker/bin:$PATH \
    ARTIFACT_DELETION_HEALTH_FILE=/tmp/alive \
    ARTIFACT_DELETION_METRICS_ADDRESS=0.0.0.0:9464 \
    ARTIFACT_DELETION_LOG_FORMAT=json
USER 10001
EXPOSE 9464
# A worker that waits for Temporal, the database or the store is alive: starting it again would help nobody.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD test -n "$(find /tmp/alive -mmin -1)"
CMD ["artifact-deletion-worker"]
