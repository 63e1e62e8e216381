"""What one training step needs: measured (`meter`), and foretold (`budget`)."""
