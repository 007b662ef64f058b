"""What knows no image and no network: configuration, files, devices, where the project lies."""
