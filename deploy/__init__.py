"""What it takes to run the production service: an image, and manifests for compose, Kubernetes and Prometheus."""
