"""What was asked, one folder a study."""
