"""What several rooms need and nobody owns."""
