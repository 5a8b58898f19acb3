# The whole image is one static binary.
FROM rust:1.91-alpine AS build
RUN apk add --no-cache musl-dev
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM scratch
COPY --from=build /src/target/release/async-task-system /
USER 65534:65534
ENV HOST=0.0.0.0
EXPOSE 3000
ENTRYPOINT ["/async-task-system"]
