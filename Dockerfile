# Both stages share the base: /opt/venv holds links to its interpreter.
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS builder
COPY requirements/runtime.txt /build/
# pip lives in a venv of its own and stays behind: the image serves, it installs nothing.
# Bytecode is compiled last and never checked against file times, which copies between layers may change.
RUN python3 -m venv /build/pip \
 && python3 -m venv --without-pip /opt/venv \
 && /build/pip/bin/pip --python /opt/venv/bin/python --disable-pip-version-check --no-cache-dir install \
      --quiet --no-compile --only-binary :all: --require-hashes -r /build/runtime.txt \
 && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv
WORKDIR /srv/rl2ml
COPY LICENSE ./
COPY rl2ml_core ./rl2ml_core
COPY app ./app
COPY examples ./examples
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash rl2ml_core app \
 && mkdir /build/data

FROM ${BASE_IMAGE}
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /srv/rl2ml /srv/rl2ml
# The store: a volume takes its owner from here.
COPY --from=builder --chown=10001:10001 /build/data /data
# One BLAS thread: the matrices are small, and requests already run side by side.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OPENBLAS_NUM_THREADS=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    RL2ML_DATA_FOLDER=/data
WORKDIR /srv/rl2ml
# A number, so that an orchestrator can see that it is not root. Root owns the code: the service cannot rewrite itself.
USER 10001:10001
VOLUME /data
# It listens on every address of the container, so it starts with an API key in its store, or with
# RL2ML_ALLOW_ANONYMOUS=1: `docker run --rm -v rl2ml:/data rl2ml python -m app keys create NAME` makes one.
EXPOSE 8000
STOPSIGNAL SIGTERM
# No curl in the image, and http.client ignores proxy settings.
HEALTHCHECK --interval=30s --timeout=4s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=3); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "app"]
