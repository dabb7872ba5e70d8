# For NVIDIA GPUs: docker build --build-arg TORCH_INDEX= …, and docker run --gpus all …
FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN [ -z "$TORCH_INDEX" ] || pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision
COPY pyproject.toml README.md /src/
COPY vitpe /src/vitpe
RUN pip install --no-cache-dir /src
WORKDIR /work
ENTRYPOINT ["vitpe"]
