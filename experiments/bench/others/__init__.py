"""What training is measured against, with packages that may not be installed."""
