# syntax=docker/dockerfile:1
# Training and export, without ROS: docs/training.md, "In a container".
#   docker build --file docker/training.Dockerfile --tag lvad_training .
# torch's wheels contain CUDA; the host needs NVIDIA's driver and container toolkit. For a smaller image without GPU:
#   --build-arg PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
ARG PIP_ARGS=
WORKDIR /opt/lvad
# Only the files that list the dependencies, so that a change of the sources does not install them again.
COPY setup.py setup.cfg pyproject.toml ./
COPY requirements requirements
COPY lvad_perception/__init__.py lvad_perception/
# hadolint ignore=DL3013,SC2086
RUN pip install --no-cache-dir --editable '.[train,export,pretrain,bags,eval,video,openvino]' -c requirements/tested.txt $PIP_ARGS
COPY . .
RUN pip install --no-cache-dir --no-deps --editable . \
    && useradd --create-home --uid 2000 lvad && chmod 1777 /home/lvad
# Paths in recipes are relative to the working directory: mount it here, with the data beside it.
ENV HOME=/home/lvad
USER 2000
WORKDIR /work
CMD ["lvad-train", "--help"]
