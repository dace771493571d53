# The training image, for Docker and Kubernetes work pools: docker build -t ipr:1 .
# What must outlive a container (runs/, data/, .dvc-remote/, mlflow/) is a volume or a server's; see docs/operations.md.
FROM python:3.11-slim
# git: runs note their commit, and DVC looks for it. A new volume takes the owner of /runs.
RUN apt-get update \
    && apt-get install -y --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ipr \
    && mkdir /runs \
    && chown ipr /runs
WORKDIR /srv/ipr
COPY requirements.lock .
RUN pip install --no-cache-dir -r requirements.lock
COPY --chown=ipr . .
RUN pip install --no-cache-dir --no-deps -e . && chown ipr . && git config --system --add safe.directory /srv/ipr
USER ipr
ENV IPR_ROOT=/srv/ipr OMP_WAIT_POLICY=PASSIVE
CMD ["ipr", "doctor"]
