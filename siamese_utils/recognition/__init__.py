"""What a user recognises with an encoder: classes and images of one's own."""
