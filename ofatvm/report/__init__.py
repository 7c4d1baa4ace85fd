"""The report: one self-contained HTML page of what a workspace's searches found."""
