"""Where a photograph was taken, given a radiance field."""
