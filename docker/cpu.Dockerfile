# moceir on CPUs. In the repository's root:
#   docker build -f docker/cpu.Dockerfile -t moceir .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/photos" moceir restore photo.jpg -o better.png
# Debian's and pip's newest are wanted, and steps that are kept apart.
# hadolint global ignore=DL3008,DL3013,DL3059
FROM python:3.12-slim-bookworm AS build
ARG TORCH=2.13.0
# The package index with PyTorch's builds for CPUs. Without it pip takes the build with CUDA, which
# works as well and is several gigabytes larger.
ARG TORCH_INDEX_URL=""
RUN apt-get update \
    && apt-get install --no-install-recommends -y g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/moceir
ENV PATH="/opt/moceir/bin:$PATH"
RUN pip install --no-cache-dir ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "torch==$TORCH"
RUN pip install --no-cache-dir ninja "setuptools>=77" wheel
WORKDIR /src
COPY . .
# The image also runs on other processors than the one that builds it.
RUN MOCE_CPU_ISA=all MOCE_CUDA=0 pip install --no-cache-dir --no-build-isolation '.[app]'

FROM python:3.12-slim-bookworm
COPY --from=build /opt/moceir /opt/moceir
# Caches go to the home folder, whichever user runs the container.
ENV PATH="/opt/moceir/bin:$PATH" HOME=/home/moceir
RUN mkdir /home/moceir && chmod 1777 /home/moceir
USER 1000:1000
WORKDIR /photos
ENTRYPOINT ["moceir"]
CMD ["--help"]
