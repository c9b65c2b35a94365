"""`report.html`: one page with all images of a run, how far their poses can be trusted, and why."""
