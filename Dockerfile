# syntax=docker/dockerfile:1
FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends clang libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# RocksDB takes ten minutes and more; the cache mounts keep it from one build to the next.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    CARGO_TARGET_DIR=/src/target cargo build --release --locked --bin starling \
    && cp target/release/starling /usr/local/bin/starling

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends curl libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/starling --create-home starling
COPY --from=build /usr/local/bin/starling /usr/local/bin/starling
USER starling
WORKDIR /var/lib/starling
# Where others reach the node can't be known here: set STARLING_ADVERTISE_HTTP and
# STARLING_ADVERTISE_PEER (or STARLING_INITIAL_NODES, which says the latter).
ENV STARLING_HTTP=0.0.0.0:7070 \
    STARLING_PEER=0.0.0.0:7071 \
    STARLING_DATA_DIR=/var/lib/starling/data
EXPOSE 7070 7071
VOLUME /var/lib/starling
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["curl", "-sSf", "-o", "/dev/null", "http://127.0.0.1:7070/healthz"]
ENTRYPOINT ["starling"]
CMD ["server"]
