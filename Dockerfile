# The service: a worker, or with another command all that starter.py can do. docker build -t artifact-deletion .
# Where trace items are deleted through Snuba: --build-arg REQUIREMENTS=deploy/requirements-snuba.txt
FROM python:3.13-slim AS build
ARG REQUIREMENTS=deploy/requirements.txt
COPY $REQUIREMENTS /requirements.txt
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /requirements.txt \
 && /venv/bin/pip uninstall --yes pip

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home worker
COPY --from=build /venv /venv
WORKDIR /service
COPY . .
# Compiled now, since the file system may be read-only later. The user may read the tree, even if it was checked out with fewer
# rights.
RUN python -m compileall -q . \
 && chmod -R a+rX . \
 && ln -s /service/deploy/artifact-deletion /usr/local/bin/artifact-deletion
ENV PATH=/venv/bin:$PATH \
    ARTIFACT_DELETION_HEALTH_FILE=/tmp/alive \
    ARTIFACT_DELETION_METRICS_ADDRESS=0.0.0.0:9464 \
    ARTIFACT_DELETION_LOG_FORMAT=json
USER 10001
EXPOSE 9464
# A worker that waits for Temporal, the database or the store is alive: a restart would not help.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD test -n "$(find /tmp/alive -mmin -1)"
CMD ["python", "worker.py"]
