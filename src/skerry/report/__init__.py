"""What a run comes to: summary.json, report.html and report.png, all made from the files in the run's directory."""
