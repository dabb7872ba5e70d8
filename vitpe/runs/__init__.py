"""What training leaves on disk, ours and other people's, read without torch."""
