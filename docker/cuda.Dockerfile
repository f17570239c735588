# moceir on NVIDIA GPUs. In the repository's root:
#   docker build -f docker/cuda.Dockerfile -t moceir:cuda .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/photos" moceir:cuda \
#     restore photo.jpg -o better.png
# Debian's and pip's newest are wanted, and steps that are kept apart.
# hadolint global ignore=DL3008,DL3013,DL3059
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build
ARG TORCH=2.13.0
# GPUs that the CUDA C++ kernels are compiled for; +PTX serves newer ones.
ARG MOCE_CUDA_ARCHS="8.0 8.6 8.9 9.0+PTX"
RUN apt-get update \
    && apt-get install --no-install-recommends -y g++ python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/moceir
ENV PATH="/opt/moceir/bin:$PATH"
RUN pip install --no-cache-dir "torch==$TORCH"
RUN pip install --no-cache-dir ninja "setuptools>=77" wheel
WORKDIR /src
COPY . .
RUN MOCE_CPU_ISA=all MOCE_CUDA=1 MOCE_CUDA_ARCHS="$MOCE_CUDA_ARCHS" \
    pip install --no-cache-dir --no-build-isolation '.[app]'

# CUDA's libraries come with torch. Triton compiles a launcher for each kernel, by gcc, as it runs.
FROM ubuntu:24.04
RUN apt-get update \
    && apt-get install --no-install-recommends -y gcc libc6-dev python3.12 python3.12-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/moceir /opt/moceir
ENV PATH="/opt/moceir/bin:$PATH" HOME=/home/moceir
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN mkdir /home/moceir && chmod 1777 /home/moceir
USER 1000:1000
WORKDIR /photos
ENTRYPOINT ["moceir"]
CMD ["--help"]
