FROM rust:1.91-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked

# The C library and nothing else: no shell, no package manager, not root.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/async-task-system /usr/local/bin/
ENV HOST=0.0.0.0
EXPOSE 3000
ENTRYPOINT ["async-task-system"]
