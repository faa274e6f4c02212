# syntax=docker/dockerfile:1
# The node on ROS 2's official image: docs/ros.md, "In a container".
#   docker build --file docker/vehicle.Dockerfile --build-arg ROS_DISTRO=jazzy --tag lvad_perception:jazzy .
ARG ROS_DISTRO=jazzy

# A machine with ROS and the package's dependencies; also the base of the development container.
FROM ros:${ROS_DISTRO}-ros-base AS dependencies
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ARG DEBIAN_FRONTEND=noninteractive
WORKDIR /ws
# Only package.xml, so that a change of the sources does not install everything again. For a -pip key rosdep would run pip
# outside a virtual environment, which Ubuntu 24.04 and later refuse (PEP 668).
COPY package.xml src/lvad_perception/
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && rosdep install --from-paths src --ignore-src -y --dependency-types exec \
        --skip-keys "python3-onnxruntime-pip python3-rosbags-pip" \
    && rm -rf /var/lib/apt/lists/*

FROM dependencies AS vehicle
# numpy keeps the major version of apt's, for which cv_bridge and OpenCV are compiled: numpy<2 on Humble and Jazzy.
# hadolint ignore=DL3013
RUN python3 -m venv --system-site-packages /opt/venv \
    && newer="$(python3 -c 'import numpy; print(int(numpy.__version__.split(".")[0]) + 1)')" \
    && /opt/venv/bin/pip install --no-cache-dir "numpy<$newer" \
        onnxruntime rosbags msgspec pillow faster-coco-eval
ENV PATH=/opt/venv/bin:$PATH
COPY . src/lvad_perception
RUN . "/opt/ros/$ROS_DISTRO/setup.bash" \
    && colcon build --packages-select lvad_perception --install-base /opt/lvad \
    && rm -rf build log
COPY docker/vehicle_entrypoint.sh /
# A home that any user of `docker run --user` can write to, for ROS's log and the package's caches.
RUN useradd --create-home --uid 2000 lvad && chmod 1777 /home/lvad
ENV HOME=/home/lvad
USER 2000
WORKDIR /home/lvad
# ros2 launch ends its nodes only on SIGINT.
STOPSIGNAL SIGINT
ENTRYPOINT ["/vehicle_entrypoint.sh"]
CMD ["ros2", "launch", "lvad_perception", "camera.launch.py", "model:=/models/model.onnx", "image:=/camera/image_raw"]
