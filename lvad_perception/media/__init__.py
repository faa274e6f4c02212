"""Images, masks and videos as files, bytes and pixels."""
