# The whole checkout, built: the command line, and what fills the bucket of the compose set-up.
# From the repository's root: docker build -f deploy/docker/tools.Dockerfile -t pilotlight/tools .
FROM rust:1-bookworm AS native
COPY --from=node:24-bookworm-slim /usr/local/bin/node /usr/local/bin/node
WORKDIR /src
COPY native native
RUN --mount=type=cache,target=/root/.cache/pilotlight --mount=type=cache,target=/usr/local/cargo/registry \
    node native/engine/build.mjs && cp -L native/engine/engine.node /engine.node && \
    node native/imagefs/build.mjs && cp -L native/imagefs/pilotlight-imagefs /pilotlight-imagefs && \
    node native/codec/build.mjs && cp -L native/codec/codec.node /codec.node

FROM node:24-bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip curl && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.npm npm ci --ignore-scripts --no-audit --no-fund
COPY --from=native /engine.node native/engine/engine.node
COPY --from=native /pilotlight-imagefs native/imagefs/pilotlight-imagefs
COPY --from=native /codec.node native/codec/codec.node
RUN cd services/worker && node ../../deploy/local/build-service.ts
ENTRYPOINT ["node", "libs/cli/src/main.ts"]
