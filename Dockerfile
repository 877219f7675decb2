# One image for every role: `pubsub index serve`, `pubsub peer serve`, and the rest of the command line.

FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pubsub ./pubsub
COPY migrations ./migrations
RUN pip wheel --no-cache-dir --constraint constraints.txt --wheel-dir /wheels .

FROM python:3.12-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels peer-pubsub

# /data belongs to the user before it becomes a volume, so that a new named volume starts out writable.
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin pubsub \
    && install --directory --owner pubsub --group pubsub --mode 0750 /data
USER pubsub
WORKDIR /data
VOLUME /data
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["pubsub"]
CMD ["--help"]
