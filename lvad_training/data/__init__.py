"""Images and labels -> Sample."""
