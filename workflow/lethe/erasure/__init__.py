"""What erasing methods share."""
