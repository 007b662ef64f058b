"""What time and images buy: training time, and classes against images."""
