# The images of the three deployables. From the top of the repository:
#
#   docker build --target command-service --tag millrace/command-service:0.1.0 .
#   docker build --target projector       --tag millrace/projector:0.1.0 .
#   docker build --target query-service   --tag millrace/query-service:0.1.0 .
#
# `podman build` works as well. An image holds one program, the C library that it is linked with, the roots of trust for
# TLS, and nothing else: no shell, no package manager, no user that may write. /sbom.cdx.json
# (CycloneDX) lists the crates of the program, and /base.cdx.json the Debian packages of the rest.
#
# Two stages can be replaced by ready files (`--build-context`): `programs` by a directory with the three
# programs and their bills (`cargo run --locked --package millrace-sbom -- DIRECTORY`), `base` by an image with glibc, libgcc_s and roots of trust. That is how .ci/run builds without a registry:
#
#   podman build --target projector --build-context programs=target/release \
#     --build-context base=container-image://localhost/millrace-base:ci .

# Both are the same release of Debian, so that the C library that is linked with is the one that is there. Each can be
# given by its digest, as `docker.io/library/rust@sha256:…`.
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm
ARG BASE_IMAGE=docker.io/library/debian:12.12-slim

# --- The manifests and the lock file, with empty crates in place of ours: dependencies are built from them. -------------

FROM ${RUST_IMAGE} AS manifests
WORKDIR /src
COPY . .
RUN find . -type f ! -name Cargo.toml ! -name Cargo.lock -delete \
 && find . -mindepth 2 -name Cargo.toml -printf '%h\n' | while read -r crate; do \
      mkdir -p "$crate/src" && : > "$crate/src/lib.rs"; \
      if grep -q '^\[build-dependencies\]' "$crate/Cargo.toml"; then echo 'fn main() {}' > "$crate/build.rs"; fi; \
    done

# --- Dependencies. A layer's cache depends on the files copied into it, so a change of sources alone leaves this one. ---

FROM ${RUST_IMAGE} AS dependencies
WORKDIR /src
COPY --from=manifests /src .
RUN cargo build --release --locked --package command-service --package projector --package query-service

# --- The programs. Cargo goes by the times of files, and the empty crates are younger than the sources. -----------------

FROM dependencies AS compiled
COPY . .
RUN find . -name '*.rs' -not -path './target/*' -exec touch {} + \
 && cargo build --release --locked --package command-service --package projector --package query-service \
 && mkdir /programs \
 && cp target/release/command-service target/release/projector target/release/query-service /programs/ \
 && cargo run --release --locked --package millrace-sbom -- /programs

FROM scratch AS programs
COPY --from=compiled /programs /

# --- The base of every program. -----------------------------------------------------------------------------------------

FROM ${BASE_IMAGE} AS debian
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates
COPY --from=programs / /programs
# The libraries that the programs name, the loader among them, each under the path by which it is looked for.
RUN mkdir -p /base/etc/ssl/certs \
 && ldd /programs/* | grep -o '/lib[^ ]*' | sort -u | xargs -I '{}' cp --parents --dereference '{}' /base \
 && cp /etc/ssl/certs/ca-certificates.crt /base/etc/ssl/certs/ \
 && echo 'nonroot:x:65532:65532::/:/nonexistent' > /base/etc/passwd \
 && echo 'nonroot:x:65532:' > /base/etc/group \
 && echo 'hosts: files dns' > /base/etc/nsswitch.conf
# Of which packages that is, in CycloneDX's JSON.
RUN { printf '{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[' \
 && dpkg-query --show --showformat='{"type":"library","name":"${Package}","version":"${Version}","purl":"pkg:deb/debian/${Package}@${Version}?arch=${Architecture}"},' \
      ca-certificates libc6 libgcc-s1 | sed 's/,$//' \
 && echo ']}'; } > /base/base.cdx.json

FROM scratch AS base
COPY --from=debian /base /

# --- The images. --------------------------------------------------------------------------------------------------------

FROM base AS deployable
USER 65532:65532
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="Millrace" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Metrics. Each deployable's own port for gRPC follows below.
EXPOSE 9464

FROM deployable AS command-service
LABEL org.opencontainers.image.title="command-service" \
      org.opencontainers.image.description="Takes commands by gRPC, stores their events, and relays them to the bus."
COPY --from=programs /command-service /command-service
COPY --from=programs /command-service.cdx.json /sbom.cdx.json
EXPOSE 50051
ENTRYPOINT ["/command-service"]

FROM deployable AS projector
LABEL org.opencontainers.image.title="projector" \
      org.opencontainers.image.description="Takes events from the queues and writes the read models; audits and redrives."
COPY --from=programs /projector /projector
COPY --from=programs /projector.cdx.json /sbom.cdx.json
EXPOSE 50053
ENTRYPOINT ["/projector"]

FROM deployable AS query-service
LABEL org.opencontainers.image.title="query-service" \
      org.opencontainers.image.description="Answers queries by gRPC from the read models, and questions about the past."
COPY --from=programs /query-service /query-service
COPY --from=programs /query-service.cdx.json /sbom.cdx.json
EXPOSE 50052
ENTRYPOINT ["/query-service"]
